-- Tables interchangeable with those of Prefect 3.8.8 on SQLite: same columns, types, defaults and constraint names.
-- Quoted zeros and the wording of the defaults are those of Prefect, so that both databases compare equal.
-- The indexes (ix_) are ours, chosen by measurement.

CREATE TABLE flow (
    id      CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name    VARCHAR  NOT NULL,
    tags    JSON     NOT NULL DEFAULT '[]',
    labels  JSON,
    CONSTRAINT pk_flow PRIMARY KEY (id),
    CONSTRAINT uq_flow__name UNIQUE (name)
);

CREATE TABLE artifact (
    id          CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created     DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated     DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    key         VARCHAR,
    type        VARCHAR,
    description VARCHAR,
    data        JSON,
    metadata_   JSON,
    flow_run_id CHAR(36),
    task_run_id CHAR(36),
    CONSTRAINT pk_artifact PRIMARY KEY (id)
);

CREATE TABLE block_type (
    id                CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created           DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated           DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name              VARCHAR  NOT NULL,
    slug              VARCHAR  NOT NULL,
    logo_url          VARCHAR,
    documentation_url VARCHAR,
    description       VARCHAR,
    code_example      VARCHAR,
    is_protected      BOOLEAN  NOT NULL DEFAULT '0',
    CONSTRAINT pk_block_type PRIMARY KEY (id)
);
CREATE UNIQUE INDEX uq_block_type__slug ON block_type (slug);

CREATE TABLE block_schema (
    id            CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created       DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated       DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    checksum      VARCHAR  NOT NULL,
    fields        JSON     NOT NULL DEFAULT '{}',
    capabilities  JSON     NOT NULL DEFAULT '[]',
    version       VARCHAR  NOT NULL DEFAULT 'non-versioned',
    block_type_id CHAR(36) NOT NULL,
    CONSTRAINT pk_block_schema PRIMARY KEY (id),
    CONSTRAINT fk_block_schema__block_type_id__block_type
        FOREIGN KEY (block_type_id) REFERENCES block_type (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX uq_block_schema__checksum_version ON block_schema (checksum, version);
CREATE INDEX ix_block_schema__block_type_id ON block_schema (block_type_id);

CREATE TABLE block_schema_reference (
    id                        CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created                   DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated                   DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name                      VARCHAR  NOT NULL,
    parent_block_schema_id    CHAR(36) NOT NULL,
    reference_block_schema_id CHAR(36) NOT NULL,
    CONSTRAINT pk_block_schema_reference PRIMARY KEY (id),
    CONSTRAINT fk_block_schema_reference__parent_block_schema_id__block_schema
        FOREIGN KEY (parent_block_schema_id) REFERENCES block_schema (id) ON DELETE CASCADE,
    CONSTRAINT fk_block_schema_reference__reference_block_schema_id__block_schema
        FOREIGN KEY (reference_block_schema_id) REFERENCES block_schema (id) ON DELETE CASCADE
);
CREATE INDEX ix_block_schema_reference__parent_block_schema_id ON block_schema_reference (parent_block_schema_id);
CREATE INDEX ix_block_schema_reference__reference_block_schema_id ON block_schema_reference (reference_block_schema_id);

CREATE TABLE block_document (
    id              CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created         DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated         DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name            VARCHAR  NOT NULL,
    data            JSON     NOT NULL DEFAULT '{}',
    block_schema_id CHAR(36) NOT NULL,
    block_type_id   CHAR(36) NOT NULL,
    block_type_name VARCHAR,
    is_anonymous    BOOLEAN  NOT NULL DEFAULT '0',
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
    id                          CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created                     DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated                     DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name                        VARCHAR  NOT NULL,
    parent_block_document_id    CHAR(36) NOT NULL,
    reference_block_document_id CHAR(36) NOT NULL,
    CONSTRAINT pk_block_document_reference PRIMARY KEY (id),
    CONSTRAINT fk_block_document_reference__parent_block_document_id__block_document
        FOREIGN KEY (parent_block_document_id) REFERENCES block_document (id) ON DELETE CASCADE,
    CONSTRAINT fk_block_document_reference__reference_block_document_id__block_document
        FOREIGN KEY (reference_block_document_id) REFERENCES block_document (id) ON DELETE CASCADE,
    CONSTRAINT ck_block_document_reference__ck_block_document_reference__no_self_reference
        CHECK (parent_block_document_id != reference_block_document_id)
);
CREATE INDEX ix_block_document_reference__parent_block_document_id
    ON block_document_reference (parent_block_document_id);
CREATE INDEX ix_block_document_reference__reference_block_document_id
    ON block_document_reference (reference_block_document_id);

CREATE TABLE flow_run (
    id                         CHAR(36)   NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created                    DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated                    DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name                       VARCHAR    NOT NULL,
    -- 9 as in Prefect, although CANCELLING has 10: SQLite does not enforce it
    state_type                 VARCHAR(9),
    state_name                 VARCHAR,
    state_timestamp            DATETIME,
    state_id                   CHAR(36),
    run_count                  INTEGER    NOT NULL DEFAULT '0',
    expected_start_time        DATETIME,
    next_scheduled_start_time  DATETIME,
    start_time                 DATETIME,
    end_time                   DATETIME,
    -- not the 0 of Prefect, which Prefect itself cannot read back
    total_run_time             DATETIME   NOT NULL DEFAULT '1970-01-01 00:00:00.000000',
    flow_id                    CHAR(36)   NOT NULL,
    flow_version               VARCHAR,
    deployment_id              CHAR(36),
    deployment_version         VARCHAR,
    parameters                 JSON       NOT NULL DEFAULT '{}',
    context                    JSON       NOT NULL DEFAULT '{}',
    empirical_policy           JSON       NOT NULL DEFAULT '{}',
    tags                       JSON       NOT NULL DEFAULT '[]',
    labels                     JSON,
    idempotency_key            VARCHAR,
    auto_scheduled             BOOLEAN    NOT NULL DEFAULT '0',
    parent_task_run_id         CHAR(36),
    infrastructure_document_id CHAR(36),
    infrastructure_pid         VARCHAR,
    -- no foreign key: we do not have the table work_queue
    work_queue_id              CHAR(36),
    work_queue_name            VARCHAR,
    created_by                 JSON,
    job_variables              JSON       DEFAULT '{}',
    CONSTRAINT pk_flow_run PRIMARY KEY (id),
    CONSTRAINT fk_flow_run__flow_id__flow
        FOREIGN KEY (flow_id) REFERENCES flow (id) ON DELETE CASCADE,
    CONSTRAINT fk_flow_run__infrastructure_document_id__block_document
        FOREIGN KEY (infrastructure_document_id) REFERENCES block_document (id) ON DELETE CASCADE,
    CONSTRAINT fk_flow_run__state_id__flow_run_state
        FOREIGN KEY (state_id) REFERENCES flow_run_state (id) ON DELETE SET NULL,
    CONSTRAINT fk_flow_run__parent_task_run_id__task_run
        FOREIGN KEY (parent_task_run_id) REFERENCES task_run (id) ON DELETE SET NULL
);
CREATE UNIQUE INDEX uq_flow_run__flow_id_idempotency_key ON flow_run (flow_id, idempotency_key);
CREATE INDEX ix_flow_run__state_type_id ON flow_run (state_type, id);
CREATE INDEX ix_flow_run__state_type_started_id
    ON flow_run (state_type, coalesce(start_time, expected_start_time), id);
CREATE INDEX ix_flow_run__state_type_expected_start_time_id ON flow_run (state_type, expected_start_time, id);
CREATE INDEX ix_flow_run__started_id ON flow_run (coalesce(start_time, expected_start_time), id);
CREATE INDEX ix_flow_run__expected_start_time_id ON flow_run (expected_start_time, id);
CREATE INDEX ix_flow_run__deployment_id_expected_start_time
    ON flow_run (deployment_id, expected_start_time) WHERE deployment_id IS NOT NULL;
CREATE INDEX ix_flow_run__next_scheduled_start_time
    ON flow_run (next_scheduled_start_time) WHERE state_type = 'SCHEDULED';
CREATE INDEX ix_flow_run__state_id ON flow_run (state_id);
CREATE INDEX ix_flow_run__parent_task_run_id ON flow_run (parent_task_run_id) WHERE parent_task_run_id IS NOT NULL;
CREATE INDEX ix_flow_run__infrastructure_document_id
    ON flow_run (infrastructure_document_id) WHERE infrastructure_document_id IS NOT NULL;

-- The tags of flow runs, which no index on JSON can find. Kept by the triggers, whoever writes; Prefect has no such table.
CREATE TABLE flow_run_tag (
    tag         VARCHAR  NOT NULL,
    flow_run_id CHAR(36) NOT NULL,
    CONSTRAINT pk_flow_run_tag PRIMARY KEY (tag, flow_run_id)
) WITHOUT ROWID;
CREATE TRIGGER tr_flow_run__insert_tags AFTER INSERT ON flow_run WHEN NEW.tags <> '[]' BEGIN
    INSERT INTO flow_run_tag (tag, flow_run_id)
        SELECT DISTINCT value, NEW.id FROM json_each(NEW.tags) WHERE type = 'text';
END;
CREATE TRIGGER tr_flow_run__update_tags AFTER UPDATE OF id, tags ON flow_run
    WHEN NEW.tags <> OLD.tags OR NEW.id <> OLD.id BEGIN
    DELETE FROM flow_run_tag
        WHERE tag IN (SELECT value FROM json_each(OLD.tags)) AND flow_run_id = OLD.id;
    INSERT INTO flow_run_tag (tag, flow_run_id)
        SELECT DISTINCT value, NEW.id FROM json_each(NEW.tags) WHERE type = 'text';
END;
CREATE TRIGGER tr_flow_run__delete_tags AFTER DELETE ON flow_run WHEN OLD.tags <> '[]' BEGIN
    DELETE FROM flow_run_tag
        WHERE tag IN (SELECT value FROM json_each(OLD.tags)) AND flow_run_id = OLD.id;
END;

CREATE TABLE flow_run_state (
    id                 CHAR(36)   NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created            DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated            DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    flow_run_id        CHAR(36)   NOT NULL,
    type               VARCHAR(9) NOT NULL,
    timestamp          DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name               VARCHAR    NOT NULL,
    message            VARCHAR,
    state_details      JSON       NOT NULL DEFAULT '{}',
    data               JSON,
    result_artifact_id CHAR(36),
    CONSTRAINT pk_flow_run_state PRIMARY KEY (id),
    CONSTRAINT fk_flow_run_state__flow_run_id__flow_run
        FOREIGN KEY (flow_run_id) REFERENCES flow_run (id) ON DELETE CASCADE,
    CONSTRAINT fk_flow_run_state__result_artifact_id__artifact
        FOREIGN KEY (result_artifact_id) REFERENCES artifact (id) ON DELETE SET NULL
);
-- ascending despite its name, as in Prefect
CREATE UNIQUE INDEX uq_flow_run_state__flow_run_id_timestamp_desc ON flow_run_state (flow_run_id, timestamp);
CREATE INDEX ix_flow_run_state__result_artifact_id
    ON flow_run_state (result_artifact_id) WHERE result_artifact_id IS NOT NULL;

CREATE TABLE task_run (
    id                        CHAR(36)   NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created                   DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated                   DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name                      VARCHAR    NOT NULL,
    state_type                VARCHAR(9),
    state_name                VARCHAR,
    state_timestamp           DATETIME,
    -- no foreign key: Prefect has none here, unlike flow_run
    state_id                  CHAR(36),
    run_count                 INTEGER    NOT NULL DEFAULT '0',
    expected_start_time       DATETIME,
    next_scheduled_start_time DATETIME,
    start_time                DATETIME,
    end_time                  DATETIME,
    -- not the 0 of Prefect, which Prefect itself cannot read back
    total_run_time            DATETIME   NOT NULL DEFAULT '1970-01-01 00:00:00.000000',
    flow_run_id               CHAR(36),
    task_key                  VARCHAR    NOT NULL,
    dynamic_key               VARCHAR    NOT NULL,
    cache_key                 VARCHAR,
    cache_expiration          DATETIME,
    task_version              VARCHAR,
    flow_run_run_count        INTEGER    NOT NULL DEFAULT '0',
    empirical_policy          JSON       NOT NULL DEFAULT '{}',
    task_inputs               JSON       NOT NULL DEFAULT '{}',
    tags                      JSON       NOT NULL DEFAULT '[]',
    labels                    JSON,
    CONSTRAINT pk_task_run PRIMARY KEY (id),
    CONSTRAINT fk_task_run__flow_run_id__flow_run
        FOREIGN KEY (flow_run_id) REFERENCES flow_run (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX uq_task_run__flow_run_id_task_key_dynamic_key ON task_run (flow_run_id, task_key, dynamic_key);
CREATE INDEX ix_task_run__state_type_id ON task_run (state_type, id);
CREATE INDEX ix_task_run__expected_start_time_id ON task_run (expected_start_time, id);

CREATE TABLE task_run_state (
    id                 CHAR(36)   NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created            DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated            DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    task_run_id        CHAR(36)   NOT NULL,
    type               VARCHAR(9) NOT NULL,
    timestamp          DATETIME   NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name               VARCHAR    NOT NULL,
    message            VARCHAR,
    state_details      JSON       NOT NULL DEFAULT '{}',
    data               JSON,
    result_artifact_id CHAR(36),
    CONSTRAINT pk_task_run_state PRIMARY KEY (id),
    CONSTRAINT fk_task_run_state__task_run_id__task_run
        FOREIGN KEY (task_run_id) REFERENCES task_run (id) ON DELETE CASCADE,
    CONSTRAINT fk_task_run_state__result_artifact_id__artifact
        FOREIGN KEY (result_artifact_id) REFERENCES artifact (id) ON DELETE SET NULL
);
-- ascending despite its name, as in Prefect
CREATE UNIQUE INDEX uq_task_run_state__task_run_id_timestamp_desc ON task_run_state (task_run_id, timestamp);
CREATE INDEX ix_task_run_state__result_artifact_id
    ON task_run_state (result_artifact_id) WHERE result_artifact_id IS NOT NULL;

CREATE TABLE log (
    id          CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created     DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated     DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    name        VARCHAR  NOT NULL,
    level       SMALLINT NOT NULL,
    -- no foreign keys, as in Prefect: a log may name an unknown run, and outlives its run
    flow_run_id CHAR(36),
    task_run_id CHAR(36),
    message     TEXT     NOT NULL,
    timestamp   DATETIME NOT NULL,
    CONSTRAINT pk_log PRIMARY KEY (id)
);
CREATE INDEX ix_log__flow_run_id_timestamp ON log (flow_run_id, timestamp);
CREATE INDEX ix_log__task_run_id_timestamp ON log (task_run_id, timestamp) WHERE task_run_id IS NOT NULL;
CREATE INDEX ix_log__timestamp ON log (timestamp);

CREATE TABLE events (
    id                   CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created              DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated              DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    occurred             DATETIME NOT NULL,
    event                TEXT     NOT NULL,
    resource_id          TEXT     NOT NULL,
    resource             JSON     NOT NULL,
    related_resource_ids JSON     NOT NULL DEFAULT '[]',
    related              JSON     NOT NULL DEFAULT '[]',
    payload              JSON     NOT NULL,
    received             DATETIME NOT NULL,
    recorded             DATETIME NOT NULL,
    follows              CHAR(36),
    CONSTRAINT pk_events PRIMARY KEY (id)
);
CREATE INDEX ix_events__occurred_id ON events (occurred, id);
CREATE INDEX ix_events__event_occurred_id ON events (event, occurred, id);

CREATE TABLE event_resources (
    id            CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created       DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated       DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    occurred      DATETIME NOT NULL,
    resource_id   TEXT     NOT NULL,
    resource_role TEXT     NOT NULL,
    resource      JSON     NOT NULL,
    -- no foreign key: Prefect has none here
    event_id      CHAR(36) NOT NULL,
    CONSTRAINT pk_event_resources PRIMARY KEY (id)
);
CREATE INDEX ix_event_resources__resource_id_occurred_event_id ON event_resources (resource_id, occurred, event_id);
CREATE INDEX ix_event_resources__event_id ON event_resources (event_id);

CREATE TABLE configuration (
    id      CHAR(36) NOT NULL DEFAULT (
        lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || substr(lower(hex(randomblob(2))), 2)
        || '-' || substr('89ab', abs(random()) % 4 + 1, 1) || substr(lower(hex(randomblob(2))), 2)
        || '-' || lower(hex(randomblob(6)))
    ),
    created DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    updated DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    key     VARCHAR  NOT NULL,
    value   JSON     NOT NULL,
    CONSTRAINT pk_configuration PRIMARY KEY (id),
    CONSTRAINT uq_configuration__key UNIQUE (key)
);
