/**
 * The small shell that is the main process of every awake computer. It reads commands from its standard input and
 * reports on its standard output; every exec is its child, so it shares the computer's confinement.
 * Invariant: it holds nothing secret, and whatever it reports is only the computer's claim.
 *
 * In: `exec N` runs `N.sh` with output to the pipes `N.out` and `N.err`; `feed N` also with input from `N.in`;
 * `kill N PID` ends its process group and all else that it started.
 * Out: `ready`, `started N PID` once its pipes are open, `exited N CODE`, `swept N 0` when a kill is done.
 *
 * A kill may come before the exec has a process group of its own: then its one process is meant. What left the group
 * is known by the limit of file locks: it has had no effect since Linux 2.4, every child inherits it, and neither
 * `setsid` nor an empty environment takes it off.
 */

export type LoopOptions = {
  /** Where, as the loop sees it, the execs' files are. */
  directory: string;
  /** null = not bounded here. */
  processes_max: number | null;
  /** What must succeed before the first exec, while the server prepares it; null = nothing. */
  before: string | null;
};

export function loopScript({ directory, processes_max, before }: LoopOptions): string {
  const limit = processes_max === null ? '' : `ulimit -p ${processes_max}`;
  const first = before === null ? '' : `${before} </dev/null >/dev/null 2>&1 || exit 1`;
  return `
umask 022
${limit}
dir=${quoted(directory)}
run() {
  exec 3>&1 4<"$2" >"$dir/$1.out" 2>"$dir/$1.err"
  setsid sh "$dir/$1.sh" <&4 3>&- 4<&- &
  exec >&3 2>/dev/null 4<&-
  echo started $1 $!
  wait $!
  echo exited $1 $?
}
end() {
  kill -s KILL -- -$2 || kill -s KILL $2
  rounds=0 left=1
  while [ $left = 1 ]; do
    left=0 rounds=$((rounds + 1))
    [ $rounds -gt ${SWEEPS_MAX} ] && exit
    for each in $(grep -ls "^Max file locks  *$1 " /proc/[0-9]*/limits); do
      [ -e "\${each%limits}exe" ] && left=1
      pid=\${each#/proc/}
      kill -s KILL \${pid%/limits}
    done
  done
  echo swept $1 0
}
exec 2>/dev/null
echo ready
${first}
while read -r verb name pid; do
  case $verb in
    exec) run $name /dev/null & ;;
    feed) run $name "$dir/$name.in" & ;;
    kill) end $name $pid & ;;
  esac
done
`;
}

/** Something that starts processes faster than they are killed is not reported as ended, which costs the computer its life. */
const SWEEPS_MAX = 100;

export type Prologue = {
  /** As the script sees it. */
  directory: string;
  name: string;
  cwd: string;
  env: Record<string, string>;
};

/**
 * What `N.sh` holds: set-up in plain `sh`, then bash on the script's file. Names that a shell cannot assign and values
 * with NUL are left out. The out-of-memory score makes the kernel choose a script before the loop. A shell's
 * background children ignore SIGINT and SIGQUIT, which scripts cannot undo: `env` does. The limit of locks has another
 * letter where `sh` is bash.
 */
export function prologue({ directory, name, cwd, env }: Prologue): string {
  const exports = Object.entries(env)
    .filter(([key, value]) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(key) && !value.includes('\0'))
    .map(([key, value]) => `export ${key}=${quoted(value)}`);
  return [
    'echo 1000 2>/dev/null >/proc/self/oom_score_adj',
    `ulimit -w ${name} 2>/dev/null || ulimit -x ${name}`,
    ...exports,
    `cd -- ${quoted(cwd)} || exit 1`,
    `exec /usr/bin/env --default-signal=INT,QUIT /bin/bash ${quoted(`${directory}/${name}.script`)}`,
    '',
  ].join('\n');
}

export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
