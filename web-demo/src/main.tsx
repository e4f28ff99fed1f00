/** Composition: the store, the network and the views meet here and nowhere else. */
import { render } from 'preact'
import { Gateway, localFloor, memoryFloor, type Floor } from 'swarmgate-client'

import { Reader, shareRoute, type World } from './reader.ts'
import { formatRoute } from './route.ts'
import type { Problem, State } from './state.ts'
import { createStore } from './store.ts'
import { prepare, visit } from './swarm.ts'
import { text } from './text.ts'
import type { Actions } from './views/actions.ts'
import { App } from './views/app.tsx'

const tracker = `${location.protocol === 'https:' ? 'wss:' : 'ws:'}//${location.host}/announce`

const gateway = new Gateway([tracker], { floor: findFloor() })

const world: World = {
  gateway,
  visit: (infoHash, options) => visit(infoHash, gateway.webSeed(infoHash), options),
  tracker,
  now: Date.now,
  obstacle: findObstacle(),
}

const store = createStore(draw)
const reader = new Reader(store, world)

const actions: Actions = {
  open: (route) => {
    location.hash = formatRoute(route)
  },
  retry: () => void reader.retry(),
  check: () => void reader.check(),
  acceptUpdate: () => void reader.acceptUpdate(),
  dismissUpdate: () => store.dispatch({ type: 'update-dismissed' }),
  copyLink: () => void copyLink(),
  image: (path) => reader.image(path),
  save: (path) => void save(path),
}

// The browser would restore the position before the page is there; the reader does it after.
history.scrollRestoration = 'manual'
addEventListener('scroll', rememberScroll, { passive: true })
addEventListener('hashchange', go)
addEventListener('online', () => store.state.problem?.code === 'no-server' && void reader.retry())

draw(store.state)
if (location.hash.length > 1) prepare().catch(() => {}) // whoever needs it will ask again, and be told
go()

let scrolled: ReturnType<typeof setTimeout> | undefined

/** Once the scrolling rests: browsers limit how often the history may be written. */
function rememberScroll(): void {
  clearTimeout(scrolled)
  scrolled = setTimeout(() => history.replaceState({ scroll: scrollY }, ''), 150)
}

function go(): void {
  clearTimeout(scrolled)
  const { scroll } = (history.state ?? {}) as { scroll?: number }
  void reader.route(location.hash, scroll ?? null)
}

function draw(state: State): void {
  const { dataset } = document.documentElement
  dataset['state'] = state.phase
  dataset['seq'] = String(state.record?.seq ?? '')
  dataset['infoHash'] = state.version?.infoHash ?? ''
  dataset['peers'] = String(state.swarm.peers)
  document.title = [state.page?.title ?? state.version?.name, text.appName].filter(Boolean).join(' – ')
  render(<App state={state} actions={actions} />, document.getElementById('app') as HTMLElement)
}

async function copyLink(): Promise<void> {
  const route = shareRoute(store.state, tracker)
  if (!route) return
  try {
    await navigator.clipboard.writeText(new URL(formatRoute(route), location.href).href)
    store.dispatch({ type: 'noticed', notice: 'copied' })
  } catch {
    store.dispatch({ type: 'noticed', notice: 'not-copied' })
  }
}

async function save(path: string): Promise<void> {
  try {
    const url = URL.createObjectURL(await reader.file(path))
    const link = document.createElement('a')
    link.href = url
    link.download = path.slice(path.lastIndexOf('/') + 1)
    link.click()
    // Browsers do not say when they have taken it.
    setTimeout(() => URL.revokeObjectURL(url), 60_000)
  } catch {
    store.dispatch({ type: 'noticed', notice: 'not-saved' })
  }
}

/** Where storage is switched off, naming it throws. */
function findFloor(): Floor {
  try {
    return localFloor(localStorage)
  } catch {
    return memoryFloor()
  }
}

function findObstacle(): Problem | null {
  if (!isSecureContext) return { code: 'insecure', detail: '' }
  if (typeof RTCPeerConnection === 'undefined') return { code: 'no-webrtc', detail: '' }
  return null
}
