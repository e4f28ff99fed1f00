import { formatRoute, HOME } from '../route.ts'
import type { Problem as Code, State } from '../state.ts'
import { text } from '../text.ts'
import type { Actions } from './actions.ts'

interface Props {
  readonly problem: Code
  readonly state: State
  readonly actions: Actions
}

/** Whether a problem is that of the page asked for, so that there is no page to show above it or below. */
export const isAboutPage = ({ code }: Code): boolean =>
  code === 'page-missing' || code === 'no-page' || code === 'page-too-large'

/** One sentence about what is wrong, and what can be done about it. */
export function Problem({ problem, state, actions }: Props) {
  const { magnet, page } = state
  const alone = magnet !== null && (page === null || isAboutPage(problem))
  return (
    <section class={alone ? 'problem alone' : 'problem'} role="alert" data-code={problem.code}>
      {alone && <h1>{isAboutPage(problem) ? text.pageProblemTitle : text.problemTitle(problem)}</h1>}
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
