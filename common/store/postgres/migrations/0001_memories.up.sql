-- The tables of the store. @VECTOR@ is vector where pgvector is at hand, else bytea (little-endian float32).
-- @KEY@ is id, or id, namespace where the table is partitioned; @PARTITION@ is then PARTITION BY HASH (namespace).

-- One row per live memory. body is the canonical JSON that GET answers; the other columns repeat what is filtered,
-- searched and read by people. node is the daemon that wrote this version: it decides between equals.
CREATE TABLE memories (
	id uuid NOT NULL,
	namespace text NOT NULL,
	version bigint NOT NULL,
	node bigint NOT NULL,
	content text NOT NULL,
	metadata jsonb NOT NULL,
	kind text,
	user_id text,
	agent_id text,
	session_id text,
	external_id text,
	importance real NOT NULL,
	flags integer NOT NULL,
	created_at timestamptz NOT NULL,
	updated_at timestamptz NOT NULL,
	expires_at timestamptz,
	content_key bigint NOT NULL,
	bytes integer NOT NULL,
	embedding_model text,
	dim integer NOT NULL,
	embedding @VECTOR@,
	words tsvector,
	body text NOT NULL,
	PRIMARY KEY (@KEY@)
) @PARTITION@;
-- Random numbers: to try and compress them costs a sixth of a row's time and gains nothing.
ALTER TABLE memories ALTER embedding SET STORAGE EXTERNAL;

CREATE INDEX memories_namespace ON memories (namespace, id);
CREATE INDEX memories_user ON memories (namespace, user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX memories_session ON memories (namespace, session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX memories_external ON memories (namespace, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX memories_content ON memories (content_key);
CREATE INDEX memories_expires ON memories (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX memories_words ON memories USING gin (words);
CREATE INDEX memories_metadata ON memories USING gin (metadata jsonb_path_ops);

-- What was deleted: how 0 can be restored (whole row), 1 expired and 2 erased are marks without content, which
-- keep an older version from coming back.
CREATE TABLE memory_trash (
	id uuid PRIMARY KEY,
	namespace text NOT NULL,
	version bigint NOT NULL,
	node bigint NOT NULL,
	deleted_at timestamptz NOT NULL,
	how smallint NOT NULL,
	content text,
	metadata jsonb,
	kind text,
	user_id text,
	agent_id text,
	session_id text,
	external_id text,
	importance real,
	flags integer,
	created_at timestamptz,
	updated_at timestamptz NOT NULL,
	expires_at timestamptz,
	content_key bigint,
	bytes integer,
	embedding_model text,
	dim integer,
	embedding @VECTOR@,
	body text
);
ALTER TABLE memory_trash ALTER embedding SET STORAGE EXTERNAL;
CREATE INDEX memory_trash_namespace ON memory_trash (namespace, id);
CREATE INDEX memory_trash_deleted ON memory_trash (deleted_at);

-- Former versions. deleted_at: the version is a deletion that was taken back. lost: a write that another daemon's, made at the same time, has won over.
CREATE TABLE memory_history (
	id uuid NOT NULL,
	version bigint NOT NULL,
	node bigint NOT NULL,
	namespace text NOT NULL,
	updated_at timestamptz NOT NULL,
	lost boolean NOT NULL DEFAULT false,
	body text NOT NULL,
	deleted_at timestamptz,
	PRIMARY KEY (id, version, node)
);
CREATE INDEX memory_history_namespace ON memory_history (namespace);

CREATE TABLE memory_namespaces (
	name text PRIMARY KEY,
	present boolean NOT NULL DEFAULT true,
	embedder text NOT NULL DEFAULT '',
	dim integer NOT NULL DEFAULT 0,
	count bigint NOT NULL DEFAULT 0,
	bytes bigint NOT NULL DEFAULT 0,
	quota_count bigint NOT NULL DEFAULT 0,
	quota_bytes bigint NOT NULL DEFAULT 0,
	relaxed boolean NOT NULL DEFAULT false,
	settings json NOT NULL DEFAULT '{}',
	created_at timestamptz NOT NULL,
	changed_at timestamptz NOT NULL
);

CREATE TABLE memory_idempotency (
	key bigint PRIMARY KEY,
	namespace text NOT NULL,
	body_hash bigint NOT NULL,
	status integer NOT NULL,
	expires_at timestamptz NOT NULL,
	reply bytea NOT NULL
);
CREATE INDEX memory_idempotency_namespace ON memory_idempotency (namespace);
CREATE INDEX memory_idempotency_expires ON memory_idempotency (expires_at);

-- The daemons: how far the journal of each has reached the store. The row is locked by every batch, so that a
-- batch that is sent again after a broken connection finds out whether the first copy arrived.
CREATE TABLE memory_nodes (
	node bigint PRIMARY KEY,
	cursor bigint NOT NULL,
	scrub bigint NOT NULL DEFAULT 0,
	name text NOT NULL,
	seen_at timestamptz NOT NULL
);

-- The change feed: a row per batch. The revision is taken at the end of the writing transaction under a lock that
-- is held until it has committed (memory_publish), so revisions become visible in their order. kinds: 1 put,
-- 2 deleted, 3 erased or expired, 4 namespace changed, 5 namespace dropped. namespace: index into namespaces, from 1.
CREATE SEQUENCE memory_revision;
CREATE TABLE memory_changes (
	revision bigint PRIMARY KEY,
	node bigint NOT NULL,
	at timestamptz NOT NULL,
	namespaces text[] NOT NULL,
	counts bigint[] NOT NULL, -- what the batch added to the number of live memories, by namespace
	bytes bigint[] NOT NULL,
	ids uuid[] NOT NULL,
	versions bigint[] NOT NULL,
	kinds smallint[] NOT NULL,
	places smallint[] NOT NULL
);
CREATE INDEX memory_changes_at ON memory_changes (at);

-- Up to which revision the feed is no longer kept.
CREATE TABLE memory_feed (pruned bigint NOT NULL);
INSERT INTO memory_feed VALUES (0);
