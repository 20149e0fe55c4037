-- What schema/migrations/*.sql make, printed by scripts/schema-sql.ts. For reading; migrations are what runs.

create table agent (
  id text not null,
  org text not null,
  name text not null,
  runtime text not null,
  prompt text not null,
  prompt_hash text not null,
  model text not null,
  revision integer not null,
  credential_id text,
  limits json,
  created_at timestamp with time zone not null default clock_timestamp(),
  updated_at timestamp with time zone not null default clock_timestamp(),
  constraint agent_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint agent_org_name_key UNIQUE (org, name),
  constraint agent_pkey PRIMARY KEY (id)
);
grant delete, insert, select, update on agent to overwinter_runtime;

create table api_key (
  id text not null,
  org text not null,
  name text not null,
  public_id text not null,
  digest bytea not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  expires_at timestamp with time zone,
  revoked_at timestamp with time zone,
  scopes text[] not null,
  last_used_at timestamp with time zone,
  constraint api_key_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint api_key_pkey PRIMARY KEY (id),
  constraint api_key_public_id_key UNIQUE (public_id),
  constraint api_key_scopes_check CHECK (((scopes <@ '{read,write,admin}'::text[]) AND (cardinality(scopes) > 0)))
);
CREATE INDEX api_key_list ON api_key USING btree (org, id DESC);
grant delete, insert, select, update on api_key to overwinter_runtime;

create table blob (
  stream text not null,
  seq bigint not null,
  body text not null,
  constraint blob_pkey PRIMARY KEY (stream, seq)
);
grant insert, select on blob to overwinter_runtime;

create table client_token (
  id text not null,
  org text not null,
  session_id text not null,
  digest bytea not null,
  scopes text[] not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  expires_at timestamp with time zone not null,
  revoked_at timestamp with time zone,
  minted_by text,
  constraint client_token_digest_key UNIQUE (digest),
  constraint client_token_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint client_token_pkey PRIMARY KEY (id),
  constraint client_token_session_id_fkey FOREIGN KEY (session_id) REFERENCES stream(id)
);
CREATE INDEX client_token_age ON client_token USING btree (expires_at);
CREATE INDEX client_token_list ON client_token USING btree (session_id, id DESC);
grant delete, insert, select, update on client_token to overwinter_runtime;

create table command (
  id text not null,
  org text not null,
  computer_id text not null,
  source text not null,
  status text not null,
  node text not null,
  timeout_ms integer not null,
  started_at timestamp with time zone not null,
  ended_at timestamp with time zone,
  exit_code integer,
  stdout_bytes bigint not null default 0,
  stderr_bytes bigint not null default 0,
  error_type text,
  constraint command_computer_id_fkey FOREIGN KEY (computer_id) REFERENCES computer(id),
  constraint command_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint command_pkey PRIMARY KEY (id)
);
CREATE INDEX command_age ON command USING btree (started_at);
CREATE INDEX command_list ON command USING btree (computer_id, id DESC);
CREATE INDEX command_running ON command USING btree (node) WHERE (status = 'running'::text);
grant delete, insert, select, update on command to overwinter_runtime;

create table computer (
  id text not null,
  org text not null,
  session_id text,
  name text not null,
  template_id text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  deleted_at timestamp with time zone,
  idle_timeout_s integer not null default 0,
  metadata json,
  preview_digest bytea,
  constraint computer_id_fkey FOREIGN KEY (id) REFERENCES stream(id),
  constraint computer_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint computer_pkey PRIMARY KEY (id),
  constraint computer_session_id_fkey FOREIGN KEY (session_id) REFERENCES stream(id)
);
CREATE INDEX computer_list ON computer USING btree (org, id DESC);
CREATE UNIQUE INDEX computer_name ON computer USING btree (org, name) WHERE (deleted_at IS NULL);
CREATE UNIQUE INDEX computer_session ON computer USING btree (session_id) WHERE (deleted_at IS NULL);
grant delete, insert, select, update on computer to overwinter_runtime;

create table computer_env (
  id text not null,
  org text not null,
  sealed text not null,
  constraint computer_env_id_fkey FOREIGN KEY (id) REFERENCES computer(id),
  constraint computer_env_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint computer_env_pkey PRIMARY KEY (id)
);
grant delete, insert, select, update on computer_env to overwinter_runtime;

create table credential (
  id text not null,
  org text not null,
  provider text not null,
  name text,
  last4 text not null,
  sealed text not null,
  is_default boolean not null default false,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint credential_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint credential_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX credential_default ON credential USING btree (org, provider) WHERE is_default;
grant delete, insert, select, update on credential to overwinter_runtime;

create table delivery (
  stream text not null,
  id text not null,
  org text not null,
  seq bigint not null,
  destination_id text not null,
  origin text not null,
  status text not null default 'pending'::text,
  attempts integer not null default 0,
  attempts_before integer not null default 0,
  due_at timestamp with time zone default clock_timestamp(),
  node text,
  last_attempt_at timestamp with time zone,
  response_code integer,
  response_body text,
  error text,
  created_at timestamp with time zone not null default clock_timestamp(),
  updated_at timestamp with time zone not null default clock_timestamp(),
  asked_at timestamp with time zone,
  constraint delivery_pkey PRIMARY KEY (stream, id)
) with (fillfactor=70, autovacuum_vacuum_scale_factor=0.05);
CREATE INDEX delivery_age ON delivery USING btree (COALESCE(asked_at, created_at)) WHERE (due_at IS NOT NULL);
CREATE INDEX delivery_destination ON delivery USING btree (destination_id, id DESC);
CREATE INDEX delivery_open ON delivery USING btree (destination_id) WHERE (status = ANY (ARRAY['pending'::text, 'failed'::text]));
CREATE INDEX delivery_queue ON delivery USING btree (org, md5(origin), due_at) WHERE (due_at IS NOT NULL);
CREATE INDEX delivery_sending ON delivery USING btree (node) WHERE (node IS NOT NULL);
grant delete, insert, select, update on delivery to overwinter_runtime;

create table deployment (
  id text not null,
  org text not null,
  project_id text not null,
  name text not null,
  description text not null default ''::text,
  machine text not null,
  wanted text not null default 'running'::text,
  asked bigint not null default 1,
  done bigint not null default 0,
  releases integer not null default 0,
  serving text,
  broken boolean not null default false,
  last_error text,
  created_at timestamp with time zone not null default clock_timestamp(),
  updated_at timestamp with time zone not null default clock_timestamp(),
  deployed_at timestamp with time zone,
  constraint deployment_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint deployment_org_name_key UNIQUE (org, name),
  constraint deployment_pkey PRIMARY KEY (id),
  constraint deployment_project_id_fkey FOREIGN KEY (project_id) REFERENCES project(id),
  constraint deployment_wanted_check CHECK ((wanted = ANY (ARRAY['running'::text, 'stopped'::text, 'deleted'::text])))
);
CREATE INDEX deployment_list ON deployment USING btree (org, id DESC);
CREATE INDEX deployment_machine ON deployment USING btree (machine);
grant delete, insert, select, update on deployment to overwinter_runtime;

create table deployment_log (
  deployment_id text not null,
  seq bigint not null,
  release integer not null,
  phase text not null,
  stream text not null,
  text text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint deployment_log_deployment_id_fkey FOREIGN KEY (deployment_id) REFERENCES deployment(id),
  constraint deployment_log_pkey PRIMARY KEY (deployment_id, seq)
);
grant delete, insert, select, update on deployment_log to overwinter_runtime;

create table destination (
  id text not null,
  org text not null,
  stream text,
  agent_id text,
  slot integer not null,
  url text not null,
  origin text not null,
  level text not null,
  types text[],
  include_raw boolean not null,
  enabled boolean not null,
  created_after_seq bigint not null default 0,
  created_at timestamp with time zone not null default clock_timestamp(),
  updated_at timestamp with time zone not null default clock_timestamp(),
  secrets bigint not null default 0,
  constraint destination_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agent(id),
  constraint destination_check CHECK (((stream IS NULL) OR (agent_id IS NULL))),
  constraint destination_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint destination_pkey PRIMARY KEY (id),
  constraint destination_stream_fkey FOREIGN KEY (stream) REFERENCES stream(id)
);
CREATE UNIQUE INDEX destination_agent ON destination USING btree (agent_id, slot) WHERE (agent_id IS NOT NULL);
CREATE INDEX destination_endpoint ON destination USING btree (org, origin);
CREATE UNIQUE INDEX destination_org ON destination USING btree (org, slot) WHERE ((stream IS NULL) AND (agent_id IS NULL));
CREATE UNIQUE INDEX destination_stream ON destination USING btree (stream, slot) WHERE (stream IS NOT NULL);
grant delete, insert, select, update on destination to overwinter_runtime;

create table destination_secret (
  id text not null,
  org text not null,
  destination_id text not null,
  sealed text not null,
  expires_at timestamp with time zone,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint destination_secret_destination_id_fkey FOREIGN KEY (destination_id) REFERENCES destination(id) ON DELETE CASCADE,
  constraint destination_secret_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint destination_secret_pkey PRIMARY KEY (id)
);
CREATE INDEX destination_secret_of ON destination_secret USING btree (destination_id, id DESC);
grant delete, insert, select, update on destination_secret to overwinter_runtime;

create table endpoint (
  org text not null,
  origin text not null,
  failures integer not null default 0,
  open_until timestamp with time zone,
  used_at timestamp with time zone not null default now(),
  constraint endpoint_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint endpoint_pkey PRIMARY KEY (org, origin)
);
grant delete, insert, select, update on endpoint to overwinter_runtime;

create table event (
  stream text not null,
  seq bigint not null,
  id text not null,
  org text not null,
  type text not null,
  level text not null,
  turn_id text,
  epoch bigint,
  actor json not null,
  source text,
  refs json,
  idempotency_key text,
  ts timestamp with time zone not null,
  xid xid8 not null default pg_current_xact_id(),
  body json,
  body_bytes integer not null,
  content_ref text,
  hash bytea not null,
  constraint event_pkey PRIMARY KEY (stream, seq)
);
CREATE INDEX event_idempotency ON event USING btree (stream, idempotency_key) WHERE (idempotency_key IS NOT NULL);
CREATE INDEX event_turns ON event USING btree (stream, seq) WHERE (type = ANY (ARRAY['turn.started'::text, 'turn.attempted'::text, 'turn.completed'::text]));
grant insert, select on event to overwinter_runtime;

create table idempotency (
  org text not null,
  route text not null,
  key text not null,
  body_sha256 bytea not null,
  resource text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint idempotency_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint idempotency_pkey PRIMARY KEY (org, route, key)
);
grant delete, insert, select, update on idempotency to overwinter_runtime;

create table node (
  id text not null,
  started_at timestamp with time zone not null default clock_timestamp(),
  alive_until timestamp with time zone not null,
  machine text not null default ''::text,
  constraint node_pkey PRIMARY KEY (id)
);
grant delete, insert, select, update on node to overwinter_runtime;

create table org (
  id text not null,
  name text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  key_revision bigint not null default 0,
  constraint org_pkey PRIMARY KEY (id)
);
grant delete, insert, select, update on org to overwinter_runtime;

create table project (
  id text not null,
  org text not null,
  name text not null,
  is_default boolean not null default false,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint project_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint project_org_name_key UNIQUE (org, name),
  constraint project_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX project_default ON project USING btree (org) WHERE is_default;
grant delete, insert, select, update on project to overwinter_runtime;

create table published_port (
  id text not null,
  org text not null,
  computer_id text not null,
  port integer not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  wakes boolean not null default false,
  start_command text,
  constraint published_port_computer_id_fkey FOREIGN KEY (computer_id) REFERENCES computer(id),
  constraint published_port_computer_id_port_key UNIQUE (computer_id, port),
  constraint published_port_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint published_port_pkey PRIMARY KEY (id)
);
grant delete, insert, select, update on published_port to overwinter_runtime;

create table release (
  id text not null,
  org text not null,
  machine text not null,
  deployment_id text,
  number integer,
  status text not null default 'receiving'::text,
  settings json not null default '{}'::json,
  env_names text[] not null default '{}'::text[],
  attempts integer not null default 0,
  computer_id text,
  port integer,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint release_deployment_id_fkey FOREIGN KEY (deployment_id) REFERENCES deployment(id),
  constraint release_deployment_id_number_key UNIQUE (deployment_id, number),
  constraint release_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint release_pkey PRIMARY KEY (id),
  constraint release_status_check CHECK ((status = ANY (ARRAY['receiving'::text, 'enqueued'::text, 'building'::text, 'ready'::text, 'failed'::text, 'retired'::text])))
);
CREATE INDEX release_received ON release USING btree (machine) WHERE (status = 'receiving'::text);
grant delete, insert, select, update on release to overwinter_runtime;

create table release_env (
  id text not null,
  org text not null,
  sealed text not null,
  constraint release_env_id_fkey FOREIGN KEY (id) REFERENCES release(id),
  constraint release_env_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint release_env_pkey PRIMARY KEY (id)
);
grant delete, insert, select, update on release_env to overwinter_runtime;

create table revision (
  id text not null,
  org text not null,
  agent_id text not null,
  number integer not null,
  digest text not null,
  prompt text not null,
  model text not null,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint revision_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agent(id),
  constraint revision_agent_id_number_key UNIQUE (agent_id, number),
  constraint revision_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint revision_pkey PRIMARY KEY (id)
);
grant delete, insert, select, update on revision to overwinter_runtime;

create table session (
  id text not null,
  org text not null,
  agent_id text not null,
  key text,
  credential_id text,
  snapshot json not null,
  limits json,
  metadata json,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint session_id_fkey FOREIGN KEY (id) REFERENCES stream(id),
  constraint session_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint session_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX session_key ON session USING btree (org, key) WHERE (key IS NOT NULL);
CREATE INDEX session_list ON session USING btree (org, id DESC);
grant delete, insert, select, update on session to overwinter_runtime;

create table setting (
  name text not null,
  value text not null,
  constraint setting_pkey PRIMARY KEY (name)
);
grant delete, insert, select, update on setting to overwinter_runtime;

create table snapshot (
  id text not null,
  org text not null,
  computer_id text not null,
  name text,
  blob text not null,
  spec json not null,
  bytes bigint not null default 0,
  ready boolean not null default false,
  created_at timestamp with time zone not null default clock_timestamp(),
  constraint snapshot_computer_id_fkey FOREIGN KEY (computer_id) REFERENCES computer(id),
  constraint snapshot_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint snapshot_pkey PRIMARY KEY (id)
);
CREATE INDEX snapshot_list ON snapshot USING btree (org, id DESC);
grant delete, insert, select, update on snapshot to overwinter_runtime;

create table stream (
  id text not null,
  org text not null,
  head bigint not null default 0,
  hash bytea not null default '\x'::bytea,
  last_ts timestamp with time zone,
  status text not null default 'idle'::text,
  state json,
  state_seq bigint not null default 0,
  last_turn json,
  usage json,
  due_at timestamp with time zone,
  prefers_node text,
  epoch bigint not null default 0,
  lease_node text,
  lease_at timestamp with time zone,
  forked_from text,
  deleted_at timestamp with time zone,
  destinations bigint not null default 0,
  kind text not null default 'session'::text,
  constraint stream_kind_check CHECK ((kind = ANY (ARRAY['session'::text, 'computer'::text]))),
  constraint stream_org_fkey FOREIGN KEY (org) REFERENCES org(id),
  constraint stream_pkey PRIMARY KEY (id)
) with (fillfactor=50, autovacuum_vacuum_scale_factor=0.02);
CREATE INDEX stream_claimable ON stream USING btree (due_at) WHERE ((kind = 'session'::text) AND ((due_at IS NOT NULL) OR (status = ANY (ARRAY['queued'::text, 'running'::text]))));
CREATE INDEX stream_computers ON stream USING btree (id) WHERE ((kind = 'computer'::text) AND (status <> ALL (ARRAY['error'::text, 'deleted'::text])));
grant delete, insert, select, update on stream to overwinter_runtime;
