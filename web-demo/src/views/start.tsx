import { useState } from 'preact/hooks'

import { parseLink } from '../route.ts'
import { text } from '../text.ts'
import type { Actions } from './actions.ts'

/** The first thing a new reader sees: one field. */
export function Start({ actions }: { readonly actions: Actions }) {
  const [complaint, setComplaint] = useState('')

  const open = (link: string) => {
    try {
      actions.open(parseLink(link))
    } catch (error) {
      setComplaint(text.problem({ code: 'bad-link', detail: (error as Error).message }))
    }
  }
  const submit = (event: SubmitEvent) => {
    event.preventDefault()
    open(new FormData(event.currentTarget as HTMLFormElement).get('link') as string)
  }
  const drop = (event: DragEvent) => {
    const dropped = event.dataTransfer?.getData('text')
    if (!dropped) return
    event.preventDefault()
    open(dropped)
  }

  return (
    <section class="start" onDrop={drop} onDragOver={(event) => event.preventDefault()}>
      <h1>{text.startTitle}</h1>
      <p class="lead">{text.startLead}</p>
      <form onSubmit={submit} noValidate>
        <label for="link">{text.linkLabel}</label>
        <div class="field">
          <input
            id="link"
            name="link"
            type="text"
            inputMode="url"
            placeholder="magnet:?xs=urn:btpk:…"
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            aria-describedby="link-hint"
            aria-invalid={complaint !== ''}
            onInput={() => setComplaint('')}
          />
          <button type="submit" class="primary">
            {text.open}
          </button>
        </div>
        <p id="link-hint" class="hint" role={complaint ? 'alert' : undefined} data-bad={complaint !== ''}>
          {complaint || text.linkHint}
        </p>
      </form>
    </section>
  )
}
