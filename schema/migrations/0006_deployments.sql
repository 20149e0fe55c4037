-- Deployments: apps that were uploaded, their releases, and what they say. A release is built and runs in a computer of its own.

create table project (
  id text primary key,
  org text not null references org,
  name text not null,
  is_default boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  unique (org, name)
);

create unique index project_default on project (org) where is_default;

create table deployment (
  id text primary key,
  org text not null references org,
  project_id text not null references project,
  name text not null,
  description text not null default '',
  -- Where its computers are: that machine's node looks after it.
  machine text not null,
  wanted text not null default 'running' check (wanted in ('running', 'stopped', 'deleted')),
  -- Raised with every wish, and what has been carried out: where they differ there is something to do.
  asked bigint not null default 1,
  done bigint not null default 0,
  -- How many releases there have been.
  releases int not null default 0,
  -- The release that visitors reach.
  serving text,
  -- It ended again and again, and is not started any more.
  broken boolean not null default false,
  last_error text,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  deployed_at timestamptz,
  unique (org, name)
);

create index deployment_list on deployment (org, id desc);

create index deployment_machine on deployment (machine);

create table release (
  id text primary key,
  org text not null references org,
  machine text not null,
  -- Null while its upload is received: what stays so is of a node that ended, and is removed.
  deployment_id text references deployment,
  number int,
  status text not null default 'receiving'
    check (status in ('receiving', 'enqueued', 'building', 'ready', 'failed', 'retired')),
  -- What its owner said of it besides its files, but for the variables.
  settings json not null default '{}',
  env_names text[] not null default '{}',
  attempts int not null default 0,
  computer_id text,
  -- That its program listens on.
  port int,
  created_at timestamptz not null default clock_timestamp(),
  unique (deployment_id, number)
);

create index release_received on release (machine) where status = 'receiving';

-- The variables of a release, which only its computer may know.
create table release_env (
  id text primary key references release,
  org text not null references org,
  sealed text not null
);

-- The last that builds and programs said.
create table deployment_log (
  deployment_id text not null references deployment,
  seq bigint generated always as identity,
  release int not null,
  phase text not null,
  stream text not null,
  text text not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (deployment_id, seq)
);

grant select, insert, update, delete on project, deployment, release, release_env, deployment_log to overwinter_runtime;
