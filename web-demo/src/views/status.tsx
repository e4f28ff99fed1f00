import { useEffect, useState } from 'preact/hooks'

import type { State } from '../state.ts'
import { text } from '../text.ts'
import type { Actions } from './actions.ts'

/** The bar above the page: where one is, how far it has come, and what can be done. */
export function Status({ state, actions }: { readonly state: State; readonly actions: Actions }) {
  const { magnet, version, page, record, phase } = state
  const name = page?.title ?? version?.name ?? magnet?.name
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
              <button type="button" onClick={actions.check} aria-disabled={state.checking}>
                {state.checking ? text.checking : text.checkUpdate}
              </button>
            )}
            <button type="button" onClick={actions.copyLink}>
              {text.copyLink}
            </button>
          </div>
        )}
      </div>
      <p class="status" role="status" data-quiet={magnet === null}>
        {magnet && summary(state)}
        {state.notice && <span class="notice">{text.notice(state.notice)}</span>}
      </p>
      {magnet && (
        <details class="facts">
          <summary>
            <span class="live">
              {text.peers(state.swarm.peers)}
              {phase !== 'shown' && state.swarm.progress > 0 && ` · ${text.percent(state.swarm.progress)}`}
            </span>
            <span class="more">{text.details}</span>
          </summary>
          <Facts state={state} name={name ?? null} />
        </details>
      )}
    </header>
  )
}

/** The line that a screen reader is told: what changes now and then, not what flickers. */
function summary({ phase, record }: State): string {
  const parts = [text.phase(phase)]
  if (record) parts.push(text.record(record.seq), `${text.signer.toLowerCase()} ${shortKey(record.key)}`)
  return parts.filter(Boolean).join(' · ')
}

export const shortKey = (key: string) => `${key.slice(0, 8)}…${key.slice(-6)}`

function Facts({ state }: { readonly state: State; readonly name: string | null }) {
  const { record, version, swarm, checkedAt, magnet } = state
  const now = useNow(checkedAt !== null)
  const rows: [string, preact.ComponentChildren][] = [
    [text.peersLabel, swarm.peers],
    [text.loadedLabel, text.percent(swarm.progress)],
    [text.speedLabel, text.speed(swarm.speed)],
  ]
  if (record)
    rows.unshift(
      [text.signer, <code>{record.key}</code>],
      [
        text.record(record.seq),
        checkedAt !== null && `${text.checkedLabel.toLowerCase()} ${text.ago(now - checkedAt)}`,
      ],
    )
  const infoHash = version?.infoHash ?? magnet?.infoHash
  if (infoHash) rows.push([text.version, <code>{infoHash}</code>])
  return (
    <dl>
      {rows.map(([term, value]) => (
        <div key={term}>
          <dt>{term}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  )
}

/** The time, told again as it passes while somebody may be looking. */
function useNow(active: boolean): number {
  const [now, setNow] = useState(Date.now())
  useEffect(() => {
    if (!active) return undefined
    const timer = setInterval(() => setNow(Date.now()), 5_000)
    return () => clearInterval(timer)
  }, [active])
  return Math.max(now, Date.now())
}
