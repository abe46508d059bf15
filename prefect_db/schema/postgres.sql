-- The PostgreSQL schema as it stands after all migrations.
-- To change it, add a migration and repeat the outcome here: a test holds the two equal.

CREATE TYPE state_type AS ENUM (
    'SCHEDULED', 'PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED', 'PAUSED', 'CANCELLING'
);

CREATE TABLE flow (
    id      UUID        NOT NULL DEFAULT gen_random_uuid(),
    created TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name    VARCHAR     NOT NULL,
    tags    JSONB       NOT NULL DEFAULT '[]',
    labels  JSONB,
    CONSTRAINT pk_flow PRIMARY KEY (id),
    CONSTRAINT uq_flow__name UNIQUE (name)
);

CREATE TABLE artifact (
    id          UUID        NOT NULL DEFAULT gen_random_uuid(),
    created     TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated     TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    key         VARCHAR,
    type        VARCHAR,
    description VARCHAR,
    -- json, not jsonb, as in Prefect
    data        JSON,
    metadata_   JSON,
    flow_run_id UUID,
    task_run_id UUID,
    CONSTRAINT pk_artifact PRIMARY KEY (id)
);

CREATE TABLE block_type (
    id                UUID        NOT NULL DEFAULT gen_random_uuid(),
    created           TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated           TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name              VARCHAR     NOT NULL,
    slug              VARCHAR     NOT NULL,
    logo_url          VARCHAR,
    documentation_url VARCHAR,
    description       VARCHAR,
    code_example      VARCHAR,
    is_protected      BOOLEAN     NOT NULL DEFAULT FALSE,
    CONSTRAINT pk_block_type PRIMARY KEY (id)
);
CREATE UNIQUE INDEX uq_block_type__slug ON block_type (slug);

CREATE TABLE block_schema (
    id            UUID        NOT NULL DEFAULT gen_random_uuid(),
    created       TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated       TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    checksum      VARCHAR     NOT NULL,
    fields        JSONB       NOT NULL DEFAULT '{}',
    capabilities  JSONB       NOT NULL DEFAULT '[]',
    version       VARCHAR     NOT NULL DEFAULT 'non-versioned',
    block_type_id UUID        NOT NULL,
    CONSTRAINT pk_block_schema PRIMARY KEY (id),
    CONSTRAINT fk_block_schema__block_type_id__block_type
        FOREIGN KEY (block_type_id) REFERENCES block_type (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX uq_block_schema__checksum_version ON block_schema (checksum, version);
CREATE INDEX ix_block_schema__block_type_id ON block_schema (block_type_id);

CREATE TABLE block_schema_reference (
    id                        UUID        NOT NULL DEFAULT gen_random_uuid(),
    created                   TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated                   TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name                      VARCHAR     NOT NULL,
    parent_block_schema_id    UUID        NOT NULL,
    reference_block_schema_id UUID        NOT NULL,
    CONSTRAINT pk_block_schema_reference PRIMARY KEY (id),
    CONSTRAINT fk_block_schema_reference__parent_block_schema_id__block_schema
        FOREIGN KEY (parent_block_schema_id) REFERENCES block_schema (id) ON DELETE CASCADE,
    CONSTRAINT fk_block_schema_reference__reference_block_schema_id__b_6e5d
        FOREIGN KEY (reference_block_schema_id) REFERENCES block_schema (id) ON DELETE CASCADE
);
CREATE INDEX ix_block_schema_reference__parent_block_schema_id ON block_schema_reference (parent_block_schema_id);
CREATE INDEX ix_block_schema_reference__reference_block_schema_id ON block_schema_reference (reference_block_schema_id);

CREATE TABLE block_document (
    id              UUID        NOT NULL DEFAULT gen_random_uuid(),
    created         TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated         TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name            VARCHAR     NOT NULL,
    data            JSONB       NOT NULL DEFAULT '{}',
    block_schema_id UUID        NOT NULL,
    block_type_id   UUID        NOT NULL,
    block_type_name VARCHAR,
    is_anonymous    BOOLEAN     NOT NULL DEFAULT FALSE,
    CONSTRAINT pk_block_document PRIMARY KEY (id),
    -- fk_block__, not fk_block_document__: the name that Prefect uses
    CONSTRAINT fk_block__block_schema_id__block_schema
        FOREIGN KEY (block_schema_id) REFERENCES block_schema (id) ON DELETE CASCADE,
    CONSTRAINT fk_block_document__block_type_id__block_type
        FOREIGN KEY (block_type_id) REFERENCES block_type (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX uq_block__type_id_name ON block_document (block_type_id, name);
CREATE INDEX ix_block_document__block_schema_id ON block_document (block_schema_id);

CREATE TABLE block_document_reference (
    id                          UUID        NOT NULL DEFAULT gen_random_uuid(),
    created                     TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated                     TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name                        VARCHAR     NOT NULL,
    parent_block_document_id    UUID        NOT NULL,
    reference_block_document_id UUID        NOT NULL,
    CONSTRAINT pk_block_document_reference PRIMARY KEY (id),
    CONSTRAINT fk_block_document_reference__parent_block_document_id___328f
        FOREIGN KEY (parent_block_document_id) REFERENCES block_document (id) ON DELETE CASCADE,
    CONSTRAINT fk_block_document_reference__reference_block_document_i_5759
        FOREIGN KEY (reference_block_document_id) REFERENCES block_document (id) ON DELETE CASCADE,
    CONSTRAINT ck_block_document_reference__ck_block_document_referenc_824f
        CHECK (parent_block_document_id != reference_block_document_id)
);
CREATE INDEX ix_block_document_reference__parent_block_document_id
    ON block_document_reference (parent_block_document_id);
CREATE INDEX ix_block_document_reference__reference_block_document_id
    ON block_document_reference (reference_block_document_id);

CREATE TABLE flow_run (
    id                         UUID        NOT NULL DEFAULT gen_random_uuid(),
    created                    TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated                    TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name                       VARCHAR     NOT NULL,
    state_type                 state_type,
    state_name                 VARCHAR,
    state_timestamp            TIMESTAMPTZ,
    state_id                   UUID,
    run_count                  INTEGER     NOT NULL DEFAULT 0,
    expected_start_time        TIMESTAMPTZ,
    next_scheduled_start_time  TIMESTAMPTZ,
    start_time                 TIMESTAMPTZ,
    end_time                   TIMESTAMPTZ,
    total_run_time             INTERVAL    NOT NULL DEFAULT '00:00:00',
    flow_id                    UUID        NOT NULL,
    flow_version               VARCHAR,
    deployment_id              UUID,
    deployment_version         VARCHAR,
    parameters                 JSONB       NOT NULL DEFAULT '{}',
    context                    JSONB       NOT NULL DEFAULT '{}',
    empirical_policy           JSONB       NOT NULL DEFAULT '{}',
    tags                       JSONB       NOT NULL DEFAULT '[]',
    labels                     JSONB,
    idempotency_key            VARCHAR,
    auto_scheduled             BOOLEAN     NOT NULL DEFAULT FALSE,
    parent_task_run_id         UUID,
    infrastructure_document_id UUID,
    infrastructure_pid         VARCHAR,
    -- no foreign key: we do not have the table work_queue
    work_queue_id              UUID,
    work_queue_name            VARCHAR,
    created_by                 JSONB,
    job_variables              JSONB       DEFAULT '{}',
    CONSTRAINT pk_flow_run PRIMARY KEY (id),
    CONSTRAINT fk_flow_run__flow_id__flow
        FOREIGN KEY (flow_id) REFERENCES flow (id) ON DELETE CASCADE,
    CONSTRAINT fk_flow_run__infrastructure_document_id__block_document
        FOREIGN KEY (infrastructure_document_id) REFERENCES block_document (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX uq_flow_run__flow_id_idempotency_key ON flow_run (flow_id, idempotency_key);
CREATE INDEX ix_flow_run__state_type_id ON flow_run (state_type, id);
CREATE INDEX ix_flow_run__state_type_started_id
    ON flow_run (state_type, (coalesce(start_time, expected_start_time)) NULLS FIRST, id);
CREATE INDEX ix_flow_run__state_type_expected_start_time_id ON flow_run (state_type, expected_start_time NULLS FIRST, id);
CREATE INDEX ix_flow_run__started_id ON flow_run ((coalesce(start_time, expected_start_time)) NULLS FIRST, id);
CREATE INDEX ix_flow_run__expected_start_time_id ON flow_run (expected_start_time NULLS FIRST, id);
CREATE INDEX ix_flow_run__deployment_id_expected_start_time
    ON flow_run (deployment_id, expected_start_time NULLS FIRST) WHERE deployment_id IS NOT NULL;
CREATE INDEX ix_flow_run__next_scheduled_start_time
    ON flow_run (next_scheduled_start_time NULLS FIRST) WHERE state_type = 'SCHEDULED';
CREATE INDEX ix_flow_run__state_id ON flow_run (state_id);
CREATE INDEX ix_flow_run__parent_task_run_id ON flow_run (parent_task_run_id) WHERE parent_task_run_id IS NOT NULL;
CREATE INDEX ix_flow_run__infrastructure_document_id
    ON flow_run (infrastructure_document_id) WHERE infrastructure_document_id IS NOT NULL;
-- Partial, so that runs without tags cost nothing. A search does not wait for the pending list of fastupdate.
CREATE INDEX ix_flow_run__tags ON flow_run USING gin (tags) WITH (fastupdate = off) WHERE tags <> '[]';

CREATE TABLE flow_run_state (
    id                 UUID        NOT NULL DEFAULT gen_random_uuid(),
    created            TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated            TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    flow_run_id        UUID        NOT NULL,
    type               state_type  NOT NULL,
    timestamp          TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name               VARCHAR     NOT NULL,
    message            VARCHAR,
    state_details      JSONB       NOT NULL DEFAULT '{}',
    data               JSONB,
    result_artifact_id UUID,
    CONSTRAINT pk_flow_run_state PRIMARY KEY (id),
    CONSTRAINT fk_flow_run_state__flow_run_id__flow_run
        FOREIGN KEY (flow_run_id) REFERENCES flow_run (id) ON DELETE CASCADE,
    CONSTRAINT fk_flow_run_state__result_artifact_id__artifact
        FOREIGN KEY (result_artifact_id) REFERENCES artifact (id) ON DELETE SET NULL
);
CREATE UNIQUE INDEX uq_flow_run_state__flow_run_id_timestamp_desc ON flow_run_state (flow_run_id, timestamp DESC);
CREATE INDEX ix_flow_run_state__result_artifact_id
    ON flow_run_state (result_artifact_id) WHERE result_artifact_id IS NOT NULL;

CREATE TABLE task_run (
    id                        UUID        NOT NULL DEFAULT gen_random_uuid(),
    created                   TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated                   TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name                      VARCHAR     NOT NULL,
    state_type                state_type,
    state_name                VARCHAR,
    state_timestamp           TIMESTAMPTZ,
    -- no foreign key: Prefect has none here, unlike flow_run
    state_id                  UUID,
    run_count                 INTEGER     NOT NULL DEFAULT 0,
    expected_start_time       TIMESTAMPTZ,
    next_scheduled_start_time TIMESTAMPTZ,
    start_time                TIMESTAMPTZ,
    end_time                  TIMESTAMPTZ,
    total_run_time            INTERVAL    NOT NULL DEFAULT '00:00:00',
    flow_run_id               UUID,
    task_key                  VARCHAR     NOT NULL,
    dynamic_key               VARCHAR     NOT NULL,
    cache_key                 VARCHAR,
    cache_expiration          TIMESTAMPTZ,
    task_version              VARCHAR,
    flow_run_run_count        INTEGER     NOT NULL DEFAULT 0,
    empirical_policy          JSONB       NOT NULL DEFAULT '{}',
    task_inputs               JSONB       NOT NULL DEFAULT '{}',
    tags                      JSONB       NOT NULL DEFAULT '[]',
    labels                    JSONB,
    CONSTRAINT pk_task_run PRIMARY KEY (id),
    CONSTRAINT fk_task_run__flow_run_id__flow_run
        FOREIGN KEY (flow_run_id) REFERENCES flow_run (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX uq_task_run__flow_run_id_task_key_dynamic_key ON task_run (flow_run_id, task_key, dynamic_key);
CREATE INDEX ix_task_run__state_type_id ON task_run (state_type, id);
CREATE INDEX ix_task_run__expected_start_time_id ON task_run (expected_start_time NULLS FIRST, id);

CREATE TABLE task_run_state (
    id                 UUID        NOT NULL DEFAULT gen_random_uuid(),
    created            TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated            TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    task_run_id        UUID        NOT NULL,
    type               state_type  NOT NULL,
    timestamp          TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name               VARCHAR     NOT NULL,
    message            VARCHAR,
    state_details      JSONB       NOT NULL DEFAULT '{}',
    data               JSONB,
    result_artifact_id UUID,
    CONSTRAINT pk_task_run_state PRIMARY KEY (id),
    CONSTRAINT fk_task_run_state__task_run_id__task_run
        FOREIGN KEY (task_run_id) REFERENCES task_run (id) ON DELETE CASCADE,
    CONSTRAINT fk_task_run_state__result_artifact_id__artifact
        FOREIGN KEY (result_artifact_id) REFERENCES artifact (id) ON DELETE SET NULL
);
CREATE UNIQUE INDEX uq_task_run_state__task_run_id_timestamp_desc ON task_run_state (task_run_id, timestamp DESC);
CREATE INDEX ix_task_run_state__result_artifact_id
    ON task_run_state (result_artifact_id) WHERE result_artifact_id IS NOT NULL;

CREATE TABLE log (
    id          UUID        NOT NULL DEFAULT gen_random_uuid(),
    created     TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated     TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    name        VARCHAR     NOT NULL,
    level       SMALLINT    NOT NULL,
    -- no foreign keys, as in Prefect: a log may name an unknown run, and outlives its run
    flow_run_id UUID,
    task_run_id UUID,
    message     TEXT        NOT NULL,
    timestamp   TIMESTAMPTZ NOT NULL,
    CONSTRAINT pk_log PRIMARY KEY (id)
);
CREATE INDEX ix_log__flow_run_id_timestamp ON log (flow_run_id, timestamp);
CREATE INDEX ix_log__task_run_id_timestamp ON log (task_run_id, timestamp) WHERE task_run_id IS NOT NULL;
CREATE INDEX ix_log__timestamp ON log (timestamp);

CREATE TABLE events (
    id                   UUID        NOT NULL DEFAULT gen_random_uuid(),
    created              TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated              TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    occurred             TIMESTAMPTZ NOT NULL,
    event                TEXT        NOT NULL,
    resource_id          TEXT        NOT NULL,
    resource             JSONB       NOT NULL,
    related_resource_ids JSONB       NOT NULL DEFAULT '[]',
    related              JSONB       NOT NULL DEFAULT '[]',
    payload              JSONB       NOT NULL,
    received             TIMESTAMPTZ NOT NULL,
    recorded             TIMESTAMPTZ NOT NULL,
    follows              UUID,
    CONSTRAINT pk_events PRIMARY KEY (id)
);
CREATE INDEX ix_events__occurred_id ON events (occurred, id);
CREATE INDEX ix_events__event_occurred_id ON events (event, occurred, id);

CREATE TABLE event_resources (
    id            UUID        NOT NULL DEFAULT gen_random_uuid(),
    created       TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated       TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    occurred      TIMESTAMPTZ NOT NULL,
    resource_id   TEXT        NOT NULL,
    resource_role TEXT        NOT NULL,
    -- json, not jsonb, as in Prefect
    resource      JSON        NOT NULL,
    -- no foreign key: Prefect has none here
    event_id      UUID        NOT NULL,
    CONSTRAINT pk_event_resources PRIMARY KEY (id)
);
CREATE INDEX ix_event_resources__resource_id_occurred_event_id ON event_resources (resource_id, occurred, event_id);
CREATE INDEX ix_event_resources__event_id ON event_resources (event_id);

CREATE TABLE configuration (
    id      UUID        NOT NULL DEFAULT gen_random_uuid(),
    created TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    key     VARCHAR     NOT NULL,
    value   JSONB       NOT NULL,
    CONSTRAINT pk_configuration PRIMARY KEY (id),
    CONSTRAINT uq_configuration__key UNIQUE (key)
);

-- circular: flow_run points at these two tables, and they at flow_run
ALTER TABLE flow_run ADD CONSTRAINT fk_flow_run__state_id__flow_run_state
    FOREIGN KEY (state_id) REFERENCES flow_run_state (id) ON DELETE SET NULL;
ALTER TABLE flow_run ADD CONSTRAINT fk_flow_run__parent_task_run_id__task_run
    FOREIGN KEY (parent_task_run_id) REFERENCES task_run (id) ON DELETE SET NULL;
