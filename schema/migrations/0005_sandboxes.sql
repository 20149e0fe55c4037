-- How the owner of a computer wants it kept, its environment, and what a visit of a published port does.

-- Nobody has asked anything of it for so long: it goes to sleep. 0 = never.
alter table computer add column idle_timeout_s int not null default 0;

alter table computer add column metadata json;

-- Of the token that visitors of its ports must bear.
alter table computer add column preview_digest bytea;

-- Variables of every command in it, which only it may know.
create table computer_env (
  id text primary key references computer,
  org text not null references org,
  sealed text not null
);

-- Whether a visit starts a computer that is asleep, and what brings the server in it back.
alter table published_port add column wakes boolean not null default false;

alter table published_port add column start_command text;

grant select, insert, update, delete on computer_env to overwinter_runtime;
