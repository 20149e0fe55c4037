/** What every driver that has terminals promises of them. */

import { randomInt } from 'node:crypto';
import { beforeAll, expect, test } from 'vitest';
import type { Computer, PtySpec, Terminal } from '../../src/resource/computer/driver.ts';
import { runScript, until } from './computers.ts';
import type { WakeNew } from './driver.ts';

const SHOWN_MAX = 4_000_000;

/** A terminal that is read all the time. `sees` waits for what it shows after the last match. */
type Watched = {
  terminal: Terminal;
  type: (text: string) => Promise<void>;
  sees: (wanted: RegExp) => Promise<string>;
};

export function terminalsConform(wakeNew: WakeNew): void {
  let computer: Computer;
  beforeAll(async () => ({ computer } = await wakeNew()));
  const open = async (more: Partial<PtySpec> = {}): Promise<Watched> => {
    const watched = watch(await computer.pty({ rows: 24, cols: 80, ...more }));
    await watched.type("PS1='ready> '\r");
    await watched.sees(/\nready> /);
    return watched;
  };

  test('are a login shell with a size, and end with its exit code', async () => {
    const { terminal, type, sees } = await open({
      rows: 31,
      cols: 97,
      env: { MARK: 'it is' },
      cwd: '/home/agent',
    });
    await type(
      'stty size; shopt -q login_shell && echo "$MARK login"; echo $TERM; test "$PWD" -ef "$HOME" && echo at home\r',
    );
    await sees(/\n31 97\r\nit is login\r\nxterm-256color\r\nat home\r\n/);
    await type('exit 7\r');
    expect(await terminal.exit).toEqual({ outcome: 'exited', exit_code: 7 });
    await terminal.write(Buffer.from('dropped'));
  });

  test('carry UTF-8', async () => {
    const { terminal, type, sees } = await open();
    await type('printf "<%s>\\n" "grüße → 你好 🦉"\r');
    await sees(/\n<grüße → 你好 🦉>\r\n/);
    terminal.close();
  });

  test('tell programs of a new size', async () => {
    const { terminal, type, sees } = await open();
    await type(`bash -c 'trap "stty size; exit" WINCH; echo wai""ting; while :; do sleep 0.05; done'\r`);
    await sees(/\nwaiting/);
    await terminal.resize(50, 132);
    await sees(/50 132/);
    await expect(terminal.resize(0, 80)).rejects.toThrow(RangeError);
    terminal.close();
  });

  test('interrupt with Ctrl-C, and stop and go on with Ctrl-Z and fg', async () => {
    const { terminal, type, sees } = await open();
    await type('echo be""gun; sleep 600\r');
    await sees(/\nbegun/);
    await type('\x03');
    await sees(/\^C[^]*ready> /);
    await type(`sh -c 'echo re""ading; exec cat'\r`);
    await sees(/\nreading\r\n/);
    await type('one\r');
    await sees(/one\r\n[^]*one\r\n/);
    await type('\x1a');
    await sees(/Stopped[^]*ready> /);
    await type('fg\r');
    await sees(/fg\r\n[^]*exec cat'\r\n/);
    await type('two\r');
    await sees(/two\r\n[^]*two\r\n/);
    await type('\x04exit 5\r');
    expect((await terminal.exit).exit_code).toBe(5);
  });

  test('show programs that fill the screen', async () => {
    await runScript(computer, 'seq -f "line %g" 1 500 > long');
    const { terminal, type, sees } = await open({ rows: 10 });
    await type(
      'if command -v less >/dev/null; then less long; else tput smcup; head -n 9 long; tput rmcup; fi\r',
    );
    await sees(/\[\?1049h[^]*line 9/);
    await type('q');
    await type('\r');
    await sees(/\[\?1049l/);
    terminal.close();
  });

  test('hang up with all of their session on close', async () => {
    const { terminal, type, sees } = await open();
    const nap = `66.${randomInt(1e9)}`;
    await type(
      `trap "" HUP; nohup sleep ${nap} >/dev/null 2>&1 & sh -c 'trap "" HUP; echo be""gun; sleep ${nap}'\r`,
    );
    await sees(/\nbegun/);
    terminal.close();
    terminal.close();
    expect((await terminal.exit).outcome).toBe('aborted');
    expect((await runScript(computer, `pgrep -fx "sleep ${nap}" || echo none`)).stdout).toBe('none\n');
  });

  test('hold a flood back until it is read', async () => {
    const terminal = await computer.pty({ rows: 24, cols: 80 });
    await terminal.write(
      Buffer.from('head -c 3000000 /dev/zero | tr "\\0" x; echo; echo fin""ished; exit\r'),
    );
    let [bytes, shown] = [0, ''];
    for await (const data of terminal.output) {
      bytes += data.length;
      shown = (shown + Buffer.from(data).toString()).slice(-200);
    }
    expect(bytes).toBeGreaterThan(3_000_000);
    expect(shown).toContain('finished');
  });

  test('take no size that is none, and no directory that is missing', async () => {
    await expect(computer.pty({ rows: 0, cols: 80 })).rejects.toThrow(RangeError);
    await expect(computer.pty({ rows: 24, cols: 80, cwd: '/missing' })).rejects.toThrow('did not start');
  });

  test('are lost with their computer', async () => {
    const other = await wakeNew();
    const { terminal } = { terminal: await other.computer.pty({ rows: 24, cols: 80 }) };
    void watch(terminal);
    await other.computer.hibernate();
    expect((await terminal.exit).outcome).toBe('lost');
    await expect(other.computer.pty({ rows: 24, cols: 80 })).rejects.toThrow();
  });
}

/** Without the marks by which a terminal tells pasted text from typed. */
function plain(shown: string): string {
  return shown.replaceAll('\x1b[?2004h', '').replaceAll('\x1b[?2004l\r', '');
}

function watch(terminal: Terminal): Watched {
  let shown = '';
  let ended = false;
  void (async () => {
    const decoder = new TextDecoder();
    for await (const data of terminal.output)
      shown = plain(shown + decoder.decode(data, { stream: true })).slice(-SHOWN_MAX);
    ended = true;
  })();
  return {
    terminal,
    type: (text) => terminal.write(Buffer.from(text)),
    async sees(wanted) {
      const found = (): boolean => wanted.test(shown);
      await until(async () => found() || ended, 20_000).catch(() => {});
      const match = wanted.exec(shown);
      if (match === null)
        throw new Error(`the terminal did not show ${wanted}, but ${JSON.stringify(shown.slice(-2000))}`);
      shown = shown.slice(match.index + match[0].length);
      return match[0];
    },
  };
}
