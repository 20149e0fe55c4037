/**
 * What the driver runs inside a container beside the scripts of its users.
 * Invariant: nothing here is secret, and whatever it says is only the computer's claim.
 */

import { assignable, quoted } from '../shell.ts';
import { PERL } from '../channel/relay.ts';

/** In memory: what an earlier awakening left is gone with it. */
export const CONTROL_DIR = '/run/computer';
/** The host's directory with the socket of the egress proxy, bound read-only. */
export const EGRESS_DIR = '/run/egress';
export const READY = 'ready\n';
export const NO_PERL = 'no perl\n';

/**
 * What the container starts: it reads the size of `mainProgram`, and then that, from its standard input. So nothing of it is
 * in an argument, where `pkill -f` would find it, and a newer server brings newer programs to an old container.
 */
export const ENTRYPOINT = ['/bin/bash', '-c', 'read -r size && eval "$(head -c "$size")"'];

/**
 * The container's main process. It ends with its standard input, which the daemon closes when the server's connection ends:
 * no computer outlives its server.
 * @param outward what starts the way out, or null.
 */
export function mainProgram(relay: string, outward: string | null): string {
  const files = Object.entries({ 'relay.pl': relay, keep: KEEPER, kill: KILLER, shell: TERMINAL });
  return `
umask 022
trap '' HUP INT QUIT TERM
mkdir -p /workspace /home/agent
[ -e /home/ohm ] || ln -s agent /home/ohm
${files.map(([name, text]) => `printf %s ${quoted(text)} >${CONTROL_DIR}/${name}`).join('\n')}
${outward === null ? '' : outwardLines(outward)}
echo ${READY.trim()}
exec cat >/dev/null
`;
}

function outwardLines(command: string): string {
  return `[ -x ${PERL} ] || { echo ${NO_PERL.trim()}; exit 1; }
${command} </dev/null >/dev/null || exit 1`;
}

/** What runs the keeper, the killer or a terminal's shell. */
export function commandOf(program: 'keep' | 'kill' | 'shell', ...values: string[]): string[] {
  return ['/bin/bash', `${CONTROL_DIR}/${program}`, ...values];
}

/**
 * Keeps one exec. `$1` is its name, a number; `$2` and `$3` the bytes of what sets up the script and of the script, which
 * come on standard input behind a line with the mark; with `$4` the rest of it is the script's own. The mark is in no
 * argument and no variable that others could read out by chance.
 *
 * What the script starts is known by the limit of file locks: it has had no effect since Linux 2.4, every child inherits
 * it, and neither `setsid` nor an empty environment takes it off. The keeper itself has none, so that it can report a
 * script that was killed. Half a script, of a server that died, is not run.
 *
 * It stays while a background child holds its output: without it the daemon would stop reading that, and the child
 * would stand still once the pipe is full.
 */
const KEEPER = `
trap : HUP INT QUIT TERM
umask 022
name=$1 at=${CONTROL_DIR}/$1
IFS= read -r mark
head -c $2 >$at.sh
head -c $3 >$at.script
[ "$(stat -c %s $at.sh)$(stat -c /%s $at.script)" = "$2/$3" ] || { rm -f $at.*; exit 1; }
kills() {
  count=0
  while read -r key value; do [ "$key" = oom_kill ] && count=$value; done
} 2>/dev/null
kills=/dev/null
for each in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do [ -r $each ] && kills=$each; done
kills <$kills; before=$count
exec 3<&0 </dev/null
[ -n "$4" ] || exec 3</dev/null
printf %s "$mark"
{ (
  exec 2>&4 4>&-
  trap - HUP INT QUIT TERM
  ulimit -x $name 2>/dev/null
  [ -e $at.killed ] && exit 137
  setsid sh $at.sh <&3 3<&- &
  exec >/dev/null 2>&1 3<&-
  echo $! >$at.pid
  wait $!
); code=$?; } 4>&2 2>/dev/null
exec 3<&-
kills <$kills; [ $count -gt $before ] && more=1 || more=0
rm -f $at.*
printf '%s%03d%s' "$mark" $code $more
printf '%s%03d%s' "$mark" $code $more >&2
held() {
  for each in /proc/[0-9]*/fd/*; do
    [[ $each -ef /proc/$$/fd/1 || $each -ef /proc/$$/fd/2 ]] && [[ $each != /proc/$$/* ]] && return 0
  done
  return 1
}
pause=1
while held; do
  sleep $pause >/dev/null 2>&1
  [ $pause -lt 16 ] && pause=$((pause * 2))
done
`;

/** What the killer says when nothing is left. */
export const SWEPT = 'swept';
/** Something that starts processes faster than they are killed is not reported as ended, which costs the computer its life. */
const SWEEPS_MAX = 100;

/** Ends all that the exec `$1` started. Where limits cannot be seen, that is its process group. */
const KILLER = `
at=${CONTROL_DIR}/$1
: >$at.killed
rounds=0 left=1
while [ $left = 1 ]; do
  left=0 rounds=$((rounds + 1))
  [ $rounds -gt ${SWEEPS_MAX} ] && exit 1
  [ -s $at.pid ] && kill -s KILL -- -$(cat $at.pid)
  for each in $(grep -ls "^Max file locks  *$1 " /proc/[0-9]*/limits); do
    [ -e "\${each%limits}exe" ] && left=1
    pid=\${each#/proc/}
    kill -s KILL \${pid%/limits}
  done
done 2>/dev/null
printf ${SWEPT}
`;

/** A login shell on a terminal, known as an exec `$1` is; `$2` = the mark, `$3` = where, `$4` and `$5` = rows, columns. */
const TERMINAL = String.raw`
at=${CONTROL_DIR}/$1
echo 1000 2>/dev/null >/proc/self/oom_score_adj
ulimit -x $1 2>/dev/null
echo $$ >$at.pid
[ -e $at.killed ] && exit 137
cd -- "$3" || exit 1
stty sane iutf8 rows $4 cols $5
printf %s "$2"
export SHELL=/bin/bash PS1='\u@\h:\w\$ '
exec /bin/bash --login
`;

/**
 * What sets up the script of the exec `name`, for `sh`. A shell's background children ignore SIGINT and SIGQUIT, which scripts cannot
 * undo: `env` does. The limit of locks has another letter where `sh` is bash.
 */
export function setUp(name: string, cwd: string, env: Record<string, string>): string {
  return [
    'echo 1000 2>/dev/null >/proc/self/oom_score_adj',
    `ulimit -w ${name} 2>/dev/null || ulimit -x ${name}`,
    ...assignable(env).map(([key, value]) => `export ${key}=${quoted(value)}`),
    `cd -- ${quoted(cwd)} || exit 1`,
    `exec /usr/bin/env --default-signal=INT,QUIT /bin/bash ${quoted(`${CONTROL_DIR}/${name}.script`)}`,
    '',
  ].join('\n');
}
