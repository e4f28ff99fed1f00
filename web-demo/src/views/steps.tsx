import type { Phase, State } from '../state.ts'
import { text } from '../text.ts'

/** The way to a page, in words, while there is none to show yet. */
export function Steps({ state }: { readonly state: State }) {
  const order: readonly Phase[] = ['finding-record', 'finding-peers', 'loading']
  const steps = state.magnet?.key === null ? order.slice(1) : order
  const current = steps.indexOf(state.phase)
  return (
    <section class="steps" aria-label={text.steps}>
      <h1>{state.version?.name ?? state.magnet?.name ?? text.steps}</h1>
      <ol>
        {steps.map((step, i) => (
          <li
            key={step}
            data-step={i < current ? 'done' : i === current ? 'now' : 'next'}
            aria-current={i === current ? 'step' : undefined}
          >
            {text.phase(step)}
            <span class="note">{note(step, state)}</span>
          </li>
        ))}
      </ol>
      <progress
        max={1}
        {...(state.phase === 'loading' && state.swarm.progress > 0 && { value: state.swarm.progress })}
        aria-label={text.steps}
      />
    </section>
  )
}

function note(step: Phase, { record, swarm }: State): string {
  if (step === 'finding-record' && record) return text.record(record.seq)
  if (step === 'finding-peers' && swarm.peers > 0) return text.peers(swarm.peers)
  if (step === 'loading' && swarm.progress > 0) return text.percent(swarm.progress)
  return ''
}
