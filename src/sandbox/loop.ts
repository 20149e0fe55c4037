/**
 * The small shell that is the main process of every awake computer. It reads commands from its standard input and
 * reports on its standard output; every exec is its child, so it shares the computer's confinement.
 * Invariant: it holds nothing secret, and whatever it reports is only the computer's claim.
 *
 * A kill may come before the exec has a process group of its own: then its one process is meant.
 *
 * In: `exec N` runs `N.sh` with output to the pipes `N.out` and `N.err`; `kill PID` ends a process group.
 * Out: `ready`, `started N PID`, `exited N CODE`.
 */

/** @param directory where, as the loop sees it, the execs' files are. @param processes_max null = not bounded here. */
export function loopScript(directory: string, processes_max: number | null): string {
  const limit = processes_max === null ? '' : `ulimit -p ${processes_max}`;
  return `
umask 022
${limit}
run() {
  setsid sh ${directory}/$1.sh </dev/null >${directory}/$1.out 2>${directory}/$1.err &
  echo started $1 $!
  wait $!
  echo exited $1 $?
}
exec 2>/dev/null
echo ready
while read -r verb id; do
  case $verb in
    exec) run $id & ;;
    kill) kill -s KILL -- -$id || kill -s KILL $id ;;
  esac
done
`;
}

export type Prologue = {
  /** As the script sees it. */
  directory: string;
  name: string;
  cwd: string;
  env: Record<string, string>;
  has_stdin: boolean;
};

/**
 * What `N.sh` holds: set-up in plain `sh`, then bash on the script's file. Names that a shell cannot assign and values
 * with NUL are left out. The out-of-memory score makes the kernel choose a script before the loop. A shell's
 * background children ignore SIGINT and SIGQUIT, which scripts cannot undo: `env` does.
 */
export function prologue({ directory, name, cwd, env, has_stdin }: Prologue): string {
  const exports = Object.entries(env)
    .filter(([key, value]) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(key) && !value.includes('\0'))
    .map(([key, value]) => `export ${key}=${quoted(value)}`);
  return [
    'echo 1000 2>/dev/null >/proc/self/oom_score_adj',
    ...exports,
    `cd -- ${quoted(cwd)} || exit 1`,
    has_stdin ? `exec <${quoted(`${directory}/${name}.in`)}` : '',
    `exec /usr/bin/env --default-signal=INT,QUIT /bin/bash ${quoted(`${directory}/${name}.script`)}`,
    '',
  ].join('\n');
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
