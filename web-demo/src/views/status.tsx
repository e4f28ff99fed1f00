import type { ComponentChildren } from 'preact'
import { useEffect, useState } from 'preact/hooks'

import { formatRoute } from '../route.ts'
import { isPage } from '../site/paths.ts'
import type { State } from '../state.ts'
import { text } from '../text.ts'
import type { Actions } from './actions.ts'

/** Most pages listed; a site that has more links to them itself. */
const PAGES = 200

/** The bar above the page: where one is, how far it has come, and what can be done. */
export function Status({ state, actions }: { readonly state: State; readonly actions: Actions }) {
  const { magnet, record, swarm, checking } = state
  const [open, setOpen] = useState(false)
  return (
    <header class="bar">
      <div class="bar-row">
        <a class="brand" href="#" aria-label={magnet ? `${text.appName}: ${text.home}` : text.appName}>
          <img src="/icon.svg" alt="" width="24" height="24" />
          <span>{text.appName}</span>
        </a>
        {magnet && (
          <div class="actions">
            {record && (
              <button type="button" onClick={actions.check} aria-disabled={checking}>
                {checking ? text.checking : text.checkUpdate}
              </button>
            )}
            <button type="button" onClick={actions.copyLink}>
              {text.copyLink}
            </button>
          </div>
        )}
      </div>
      {magnet && (
        <div class="meta">
          <p class="status" role="status">
            {summary(state)}
            {state.notice && <span class="notice"> {text.notice(state.notice)}</span>}
          </p>
          <button type="button" class="more" aria-expanded={open} onClick={() => setOpen(!open)}>
            {text.peers(swarm.peers)}
            <span class="unseen"> {text.details}</span>
          </button>
          {open && <Facts state={state} />}
        </div>
      )}
    </header>
  )
}

/** The line that a screen reader is told: what changes now and then, not what flickers. */
function summary({ phase, problem, record }: State): string {
  const parts = [text.phase(phase, problem)]
  if (record) parts.push(text.record(record.seq), text.signedBy(shortKey(record.key)))
  return parts.join(' · ')
}

const shortKey = (key: string) => `${key.slice(0, 8)}…${key.slice(-6)}`

function Facts({ state }: { readonly state: State }) {
  const { record, version, swarm, checkedAt, magnet } = state
  const now = useNow()
  const infoHash = version?.infoHash ?? magnet?.infoHash
  const pages = (version?.paths ?? []).filter(isPage).slice(0, PAGES)
  const rows: readonly (readonly [string, ComponentChildren])[] = [
    ...(record ? [[text.signer, <code>{record.key}</code>] as const] : []),
    ...(record && checkedAt !== null ? [[text.checked, text.ago(now - checkedAt)] as const] : []),
    ...(infoHash ? [[text.infoHash, <code>{infoHash}</code>] as const] : []),
    [text.loaded, text.percent(swarm.progress)],
    [text.speedLabel, text.speed(swarm.speed)],
  ]
  return (
    <div class="facts">
      <dl>
        {rows.map(([term, value]) => (
          <div key={term}>
            <dt>{term}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {magnet && pages.length > 1 && (
        <nav aria-label={text.pages}>
          <h2>{text.pages}</h2>
          <ul>
            {pages.map((page) => (
              <li key={page}>
                <a href={formatRoute({ magnet, place: { page, heading: null } })}>{page}</a>
              </li>
            ))}
          </ul>
        </nav>
      )}
    </div>
  )
}

/** The time, told again as it passes. */
function useNow(): number {
  const [now, setNow] = useState(Date.now())
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 5_000)
    return () => clearInterval(timer)
  }, [])
  return Math.max(now, Date.now())
}
