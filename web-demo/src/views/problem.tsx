import { formatRoute, HOME } from '../route.ts'
import type { Problem as Code, State } from '../state.ts'
import { text } from '../text.ts'
import type { Actions } from './actions.ts'

interface Props {
  readonly problem: Code
  readonly state: State
  readonly actions: Actions
}

/** One sentence about what is wrong, and what can be done about it. */
export function Problem({ problem, state, actions }: Props) {
  const { magnet } = state
  return (
    <section class="problem" role="alert" data-code={problem.code}>
      <p>{text.problem(problem)}</p>
      {magnet && problem.code === 'page-missing' && (
        <a href={formatRoute({ magnet, place: HOME })}>{text.toSiteHome}</a>
      )}
      {magnet && problem.code !== 'page-missing' && problem.code !== 'insecure' && problem.code !== 'no-webrtc' && (
        <button type="button" onClick={actions.retry}>
          {text.retry}
        </button>
      )}
    </section>
  )
}
