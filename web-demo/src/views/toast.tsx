import { text } from '../text.ts'
import type { Actions } from './actions.ts'

/** A newer version is offered, never pushed under somebody's eyes. */
export function Toast({ actions }: { readonly actions: Actions }) {
  return (
    <div class="toast" role="status">
      <p>{text.updateTitle}</p>
      <button type="button" class="primary" onClick={actions.acceptUpdate}>
        {text.showUpdate}
      </button>
      <button type="button" onClick={actions.dismissUpdate}>
        {text.later}
      </button>
    </div>
  )
}
