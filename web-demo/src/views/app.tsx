import type { State } from '../state.ts'
import { text } from '../text.ts'
import type { Actions } from './actions.ts'
import { Article } from './article.tsx'
import { isAboutPage, Problem } from './problem.tsx'
import { Start } from './start.tsx'
import { Status } from './status.tsx'
import { Steps } from './steps.tsx'
import { Toast } from './toast.tsx'

export function App({ state, actions }: { readonly state: State; readonly actions: Actions }) {
  const { phase, page, problem, update } = state
  const showArticle = page !== null && !(problem && isAboutPage(problem))
  const opening = phase === 'finding-record' || phase === 'finding-peers' || phase === 'loading'
  return (
    <>
      <a class="skip" href="#content" onClick={skipToContent}>
        {text.skip}
      </a>
      <Status state={state} actions={actions} />
      <main id="content" tabIndex={-1}>
        {problem && <Problem problem={problem} state={state} actions={actions} />}
        {state.magnet === null && <Start actions={actions} />}
        {opening && !page && <Steps state={state} />}
        {showArticle && <Article state={state} page={page} actions={actions} />}
      </main>
      {update && <Toast actions={actions} />}
    </>
  )
}

/** By hand: the fragment of the address is the site's. */
function skipToContent(event: Event) {
  event.preventDefault()
  document.getElementById('content')?.focus()
}
