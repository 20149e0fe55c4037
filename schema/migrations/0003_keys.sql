-- Keys: what each may do, when it was last used, and that an org never loses its last one.

-- Keys from before could do everything.
alter table api_key add column scopes text[] not null default '{admin}'
  check (scopes <@ '{read,write,admin}' and cardinality(scopes) > 0);

alter table api_key alter column scopes drop default;

alter table api_key add column last_used_at timestamptz;

create index api_key_list on api_key (org, id desc);

create index client_token_list on client_token (session_id, id desc);

-- Raised with every revocation of a key: of two that would leave an org without an admin key, one sees the other.
alter table org add column key_revision bigint not null default 0;
