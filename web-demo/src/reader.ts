/** Opening, reading and following a site: the steps between the network and the state. */
import {
  ConnectionError,
  ForgedError,
  ProxyError,
  StaleError,
  TimeoutError,
  UnsupportedError,
  type Gateway,
  type VerifiedRecord,
} from 'swarmgate-client'
import { MagnetError, type Magnet } from 'swarmgate-client/magnet'

import { HOME, parseRoute, sameSite, type Route } from './route.ts'
import { renderMarkdown } from './site/markdown.ts'
import { homePage, imageType } from './site/paths.ts'
import type { Problem } from './state.ts'
import type { Store } from './store.ts'
import { chooseTrackers, TorrentError, type Site, type Visit, type VisitOptions } from './swarm.ts'

/** Longest page shown, bytes. A book of a thousand pages fits; a log file that would freeze the tab does not. */
const LONGEST_PAGE = 4 * 1024 * 1024

/** How long a swarm may be without peers before the reader is told, milliseconds. The search goes on. */
const PATIENCE = 20_000

/** What the reader needs of the world outside. */
export interface World {
  readonly gateway: Pick<Gateway, 'get' | 'subscribe'>
  readonly visit: (infoHash: string, options: VisitOptions) => Visit
  /** Address of the tracker of this page's own server. */
  readonly tracker: string
  readonly now: () => number
  /** Why nothing can be opened on this page at all. */
  readonly obstacle: Problem | null
}

export class Reader {
  readonly #store: Store
  readonly #world: World
  /** Ends everything that belongs to the site on display. */
  #open = new AbortController()
  #visit: Visit | null = null
  #site: Site | null = null
  #shown: { readonly site: Site; readonly path: string } | null = null

  constructor(store: Store, world: World) {
    this.#store = store
    this.#world = world
  }

  /** Goes where the address bar says; `scroll` is how far down the reader was there before. */
  async route(hash: string, scroll: number | null = null): Promise<void> {
    let route: Route | null
    try {
      route = parseRoute(hash)
    } catch (error) {
      this.#leave()
      this.#store.dispatch({ type: 'closed' })
      this.#fail(error)
      return
    }
    const { magnet } = this.#store.state
    if (!route) {
      this.#leave()
      this.#store.dispatch({ type: 'closed' })
    } else if (magnet && sameSite(magnet, route.magnet)) {
      this.#store.dispatch({ type: 'went', place: route.place, scroll })
      if (this.#site) await this.#guard(this.#open.signal, () => this.#showPlace())
    } else {
      await this.#openSite(route, scroll)
    }
  }

  /** Tries again from the start. */
  async retry(): Promise<void> {
    const { magnet, place, scroll } = this.#store.state
    if (magnet) await this.#openSite({ magnet, place }, scroll)
  }

  /** Asks whether there is a newer version, because a person wants to know: the DHT is asked, and the answer told. */
  async check(): Promise<void> {
    const { record, magnet, checking } = this.#store.state
    if (!magnet?.key || !record || checking) return
    const { signal } = this.#open
    this.#store.dispatch({ type: 'check-started' })
    try {
      const options = { salt: magnet.salt, known: record, signal, maxAge: 0 }
      const newest = (await this.#world.gateway.get(magnet.key, options)) ?? record
      signal.throwIfAborted()
      this.#store.dispatch({ type: 'checked', record: newest, at: this.#world.now() })
    } catch {
      if (!signal.aborted) this.#store.dispatch({ type: 'check-failed' })
    }
  }

  /** Opens the newer version; the page on display stays until that one is there. */
  async acceptUpdate(): Promise<void> {
    const { update } = this.#store.state
    if (!update) return
    this.#store.dispatch({ type: 'record-found', record: update, at: this.#world.now() })
    await this.#guard(this.#open.signal, (signal) => this.#openVersion(update.infoHash, signal))
  }

  /** An image of the site on display. */
  async image(path: string): Promise<Blob> {
    const type = imageType(path)
    if (!this.#site || type === null) throw new TorrentError('no such image')
    return new Blob([await this.#site.read(path)], { type })
  }

  /** A file of the site on display, to be saved: its type says "never display". */
  async file(path: string): Promise<Blob> {
    if (!this.#site) throw new TorrentError('no such file')
    return new Blob([await this.#site.read(path)], { type: 'application/octet-stream' })
  }

  async #openSite({ magnet, place }: Route, scroll: number | null): Promise<void> {
    this.#leave()
    this.#store.dispatch({ type: 'opened', magnet, place, scroll })
    const { obstacle } = this.#world
    if (obstacle) return this.#store.dispatch({ type: 'failed', problem: obstacle })
    await this.#guard(this.#open.signal, async (signal) => {
      const record = magnet.key === null ? null : await this.#findRecord(magnet, magnet.key, signal)
      if (magnet.key !== null) void this.#follow(magnet, magnet.key, record, signal)
      await this.#openVersion(record ? record.infoHash : magnet.infoHash, signal)
    })
  }

  /** The newest record; `null` when none is to be had but the link names a version to fall back on. */
  async #findRecord(magnet: Magnet, key: string, signal: AbortSignal): Promise<VerifiedRecord | null> {
    const { dispatch } = this.#store
    let problem: unknown = new NotFoundError()
    try {
      const record = await this.#world.gateway.get(key, { salt: magnet.salt, signal })
      if (record) {
        dispatch({ type: 'record-found', record, at: this.#world.now() })
        return record
      }
    } catch (error) {
      problem = error
    }
    // A server that lies is reported; one that is absent or knows nothing is not the end, if there is another way.
    const lied = problem instanceof ForgedError || problem instanceof StaleError
    if (signal.aborted || lied || magnet.infoHash === null) throw problem
    dispatch({ type: 'record-skipped' })
    return null
  }

  /** Offers what is published from now on, until the site is left. */
  async #follow(magnet: Magnet, key: string, known: VerifiedRecord | null, signal: AbortSignal): Promise<void> {
    const followed = (record: VerifiedRecord | null) =>
      this.#store.dispatch({ type: 'followed', record, at: this.#world.now() })
    const options = { salt: magnet.salt, ...(known && { known }), heard: () => followed(null), signal }
    try {
      for await (const record of this.#world.gateway.subscribe(key, options)) followed(record)
    } catch {
      // The site was left, or no server can be followed: then somebody who wants to know asks, and is told why.
    }
  }

  async #openVersion(infoHash: string | null, signal: AbortSignal): Promise<void> {
    const { magnet } = this.#store.state
    if (infoHash === null || !magnet) throw new NoTorrentError()
    if (this.#site?.infoHash !== infoHash) {
      this.#store.dispatch({ type: 'peers-awaited' })
      const visit = this.#join(infoHash, magnet)
      const onAbort = () => visit.leave()
      signal.addEventListener('abort', onAbort)
      const site = await visit.site
      signal.throwIfAborted()
      signal.removeEventListener('abort', onAbort)
      this.#visit?.leave()
      this.#visit = visit
      this.#site = site
    }
    const { name, files } = this.#site
    this.#store.dispatch({ type: 'version-opened', version: { infoHash, name, paths: [...files.keys()] } })
    await this.#showPlace()
  }

  #join(infoHash: string, magnet: Magnet): Visit {
    let alone = this.#world.now()
    return this.#world.visit(infoHash, {
      trackers: chooseTrackers(this.#world.tracker, magnet),
      onChange: (swarm) => {
        const now = this.#world.now()
        if (swarm.peers > 0) alone = now
        this.#store.dispatch({ type: 'swarm-changed', swarm })
        const { phase } = this.#store.state
        const waiting = phase === 'finding-peers' || phase === 'loading'
        if (waiting && now - alone > PATIENCE) {
          this.#store.dispatch({ type: 'failed', problem: { code: 'no-peers', detail: '' } })
        }
      },
    })
  }

  async #showPlace(): Promise<void> {
    const site = this.#site as Site
    const { place, page } = this.#store.state
    const path = place.page ?? homePage(site.files.keys())
    const file = path === null ? undefined : site.files.get(path)
    if (path === null) throw new PageError('no-page')
    if (!file) throw new PageError('page-missing', path)
    if (file.length > LONGEST_PAGE) throw new PageError('page-too-large', path)
    if (page && this.#shown?.site === site && this.#shown.path === path) {
      return this.#store.dispatch({ type: 'page-shown', page })
    }
    this.#store.dispatch({ type: 'page-awaited' })
    const source = new TextDecoder().decode(await site.read(path))
    // Somebody has gone on while the page came.
    if (this.#site !== site || this.#store.state.place !== place) return
    this.#shown = { site, path }
    this.#store.dispatch({ type: 'page-shown', page: { path, ...renderMarkdown(source) } })
    site.fetchRest()
  }

  #leave(): void {
    this.#open.abort()
    this.#open = new AbortController()
    this.#visit?.leave()
    this.#visit = null
    this.#site = null
    this.#shown = null
  }

  /** Runs a step; what it throws becomes the problem on display, unless the site was left meanwhile. */
  async #guard(signal: AbortSignal, step: (signal: AbortSignal) => Promise<void>): Promise<void> {
    try {
      await step(signal)
    } catch (error) {
      if (!signal.aborted) this.#fail(error)
    }
  }

  #fail(error: unknown): void {
    this.#store.dispatch({ type: 'failed', problem: toProblem(error) })
  }
}

class NotFoundError extends Error {}
class NoTorrentError extends Error {}

class PageError extends Error {
  constructor(
    readonly code: 'no-page' | 'page-missing' | 'page-too-large',
    path = '',
  ) {
    super(path)
  }
}

/** The one place where errors become what a reader is told. */
export function toProblem(error: unknown): Problem {
  const detail = error instanceof Error ? error.message : String(error)
  if (error instanceof PageError) return { code: error.code, detail }
  if (error instanceof StaleError) return { code: 'stale', detail: `${error.seq} < ${error.floor}` }
  const codes: [new (...args: never[]) => Error, Problem['code']][] = [
    [MagnetError, 'bad-link'],
    [NotFoundError, 'not-found'],
    [NoTorrentError, 'no-torrent'],
    [ForgedError, 'forged'],
    [UnsupportedError, 'unsupported'],
    [ProxyError, 'refused'],
    [ConnectionError, 'no-server'],
    [TimeoutError, 'no-server'],
    [TorrentError, 'torrent'],
  ]
  return { code: codes.find(([kind]) => error instanceof kind)?.[1] ?? 'unexpected', detail }
}

/** What a link to the site on display should carry: the key, the version on display as a fallback, and a name. */
export function shareRoute(state: Store['state'], tracker: string): Route | null {
  const { magnet, version, page, place } = state
  if (!magnet) return null
  const name = page?.title ?? version?.name ?? magnet.name
  return {
    magnet: {
      ...magnet,
      infoHash: version?.infoHash ?? magnet.infoHash,
      name,
      trackers: [...new Set([...magnet.trackers, ...(tracker.startsWith('wss:') ? [tracker] : [])])],
    },
    place: place.page === null ? HOME : place,
  }
}
