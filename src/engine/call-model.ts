/** One model call: the request is in the log already, the outcome goes there whatever it is. */
import type { ModelOutcome } from '../resource/model.ts';
import { modelRequest } from '../session/transcript.ts';
import { whileInterruptible } from './interrupt.ts';
import { modelKey } from './model-key.ts';
import { currentTranscript, write, type Runner } from './runner.ts';
import type { Runtime } from './runtime.ts';
import type { Leaving } from './turn.ts';

export async function callModel(
  runtime: Runtime,
  runner: Runner,
  step: { request: number; max_tokens: number },
  leaving: Leaving,
): Promise<void> {
  const transcript = await currentTranscript(runtime, runner);
  const seen = runner.state.head;
  const started = performance.now();
  const outcome = await respond(runtime, runner, modelRequest(transcript, step.max_tokens), leaving);
  await runtime.fail('model.answered');
  const { request } = step;
  const pause = leaving.asked.aborted;
  if (outcome.kind === 'responded') {
    const duration_ms = Math.round(performance.now() - started);
    await write(runtime, runner, { type: 'model_responded', outcome, request, seen, duration_ms, pause });
  } else {
    const jitter = runtime.random();
    await write(runtime, runner, { type: 'model_failed', outcome, request, seen, jitter, pause });
  }
}

async function respond(
  runtime: Runtime,
  runner: Runner,
  request: ReturnType<typeof modelRequest>,
  leaving: Leaving,
): Promise<ModelOutcome> {
  const { stream, org } = runner.claim;
  const turn_id = runner.state.turn?.id ?? '';
  const api_key = await modelKey(runtime, org, runner.state.credential_id);
  if (api_key === undefined) return NO_KEY;
  const { outcome } = await whileInterruptible(runtime, runner, leaving.now, (signal) =>
    runtime.provider.respond(request, {
      api_key,
      signal,
      on_text: (text) => runtime.deltas.publish(stream, { turn_id, text }),
    }),
  );
  return (
    outcome ?? {
      kind: 'failed',
      reason: 'aborted',
      code: 'aborted',
      message: 'the call did not end when told',
    }
  );
}

const NO_KEY: ModelOutcome = {
  kind: 'failed',
  reason: 'credential',
  code: 'no_credential',
  message: 'the session has no usable model key: store a credential or set ANTHROPIC_API_KEY on the server',
};
