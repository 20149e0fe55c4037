/**
 * The small bash that is the main process of every awake computer. It reads commands from its standard input and
 * reports on its standard output; every exec is its child, so it shares the computer's confinement.
 * Invariant: it holds nothing secret, and whatever it reports is only the computer's claim.
 *
 * In: `exec N SET-UP` runs the set-up, which becomes the script, with output to the pipes `N.out` and `N.err`; `feed N SET-UP` also with
 * input from `N.in`; `kill N PID` ends its process group and all else that it started. bash reads a pipe byte by byte: lines are short.
 * Out: `ready`, `started N PID` once its pipes are open, `exited N CODE`, `swept N 0` when a kill is done.
 *
 * Job control gives an exec its process group, and the signals that a shell has its background children ignore; it is off again while
 * the exec is waited for, which may stop and go on. Without a session of its own its group can be stopped by SIGTSTP too. The
 * out-of-memory score makes the kernel choose a script before the loop. What left the group is known by the limit of file locks: it has
 * had no effect since Linux 2.4, every child inherits it, and neither `setsid` nor an empty environment takes it off.
 */

import { assignable, onOneLine, quoted } from '../shell.ts';

export type LoopOptions = {
  /** Where, as the loop sees it, the execs' files are. */
  directory: string;
  /** null = not bounded here. */
  processes_max: number | null;
  /** What must succeed before the first exec, while the server prepares it; null = nothing. */
  before: string | null;
};

/** The command of the loop. Without `--norc` bash takes a socket as its input for a remote login, and reads files of the agent's. */
export function loopCommand(options: LoopOptions, first = ''): string[] {
  return ['/bin/bash', '--norc', '-c', first + loopScript(options)];
}

function loopScript({ directory, processes_max, before }: LoopOptions): string {
  const limit = processes_max === null ? '' : `ulimit -u ${processes_max}`;
  const first = before === null ? '' : `${before} </dev/null >/dev/null 2>&1 || exit 1`;
  return `
umask 022
${limit}
dir=${quoted(directory)}
run() {
  exec 3>&1 4<"$2" >"$dir/$1.out" 2>"$dir/$1.err"
  set -m
  {
    exec 3>&-
    { echo 1000 >/proc/self/oom_score_adj; ulimit -x $1; } 2>/dev/null
    eval "$3"
  } <&4 4<&- &
  set +m
  exec >&3 2>/dev/null 4<&-
  echo started $1 $!
  wait $!
  echo exited $1 $?
}
end() {
  kill -s KILL -- -$2 || kill -s KILL $2
  rounds=0 empty=0
  while [ $empty -lt ${EMPTY_SWEEPS} ]; do
    empty=$((empty + 1)) rounds=$((rounds + 1))
    [ $rounds -gt ${SWEEPS_MAX} ] && exit
    for each in $(grep -ls "^Max file locks  *$1 " /proc/[0-9]*/limits); do
      [ -e "\${each%limits}exe" ] && empty=0
      pid=\${each#/proc/}
      kill -s KILL \${pid%/limits}
    done
  done
  echo swept $1 0
}
exec 2>/dev/null
echo ready
${first}
while read -r verb name rest; do
  case $verb in
    exec) run $name /dev/null "$rest" & ;;
    feed) run $name "$dir/$name.in" "$rest" & ;;
    kill) end $name $rest & ;;
  esac
done
`;
}

/** What is always being born anew, and dies, can pass by a sweep. */
const EMPTY_SWEEPS = 4;
/** Something that starts processes faster than they are killed is not reported as ended, which costs the computer its life. */
const SWEEPS_MAX = 100;

export type SetUp = {
  /** Where the script is, as the loop sees it. */
  script: string;
  cwd: string;
  env: Record<string, string>;
};

/**
 * What the process of an exec does until it is the script's bash, in bash on one line. Variables go by `env`: bash keeps some names for
 * itself, and the loop has its own.
 */
export function setUpOf({ script, cwd, env }: SetUp): string {
  const variables = assignable(env).map(([name, value]) => onOneLine(`${name}=${value}`));
  const words = [
    ...(variables.length > 0 ? ['/usr/bin/env', ...variables] : []),
    '/bin/bash',
    onOneLine(script),
  ];
  return `cd -- ${onOneLine(cwd)} || exit 1; unset OLDPWD; exec ${words.join(' ')}`;
}
