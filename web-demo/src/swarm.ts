/** A torrent in the browser: WebTorrent behind the few operations that the reader needs. */
import { ConnectionError } from 'swarmgate-client'
import type { Magnet } from 'swarmgate-client/magnet'
import { addressOf, addWebSeed } from 'swarmgate-client/web-seeds'
import type WebTorrent from 'webtorrent/dist/webtorrent.min.js'
import type { Torrent, TorrentFile } from 'webtorrent/dist/webtorrent.min.js'

import { MemoryStore } from './memory-store.ts'
import { byPath } from './site/paths.ts'
import type { Swarm } from './state.ts'

/** Largest torrent fetched whole while it is read, so that its next page is there at once and others can have it. */
const FETCH_WHOLE = 64 * 1024 * 1024

/** Most trackers of a link that are asked besides our own. */
const FOREIGN_TRACKERS = 4

/** Pieces of what is on display come first. */
const URGENT = 5

/** How often the figures on display are refreshed, milliseconds. */
const REFRESH = 500

/** The torrent failed for good; the message is WebTorrent's. */
export class TorrentError extends Error {
  override name = 'TorrentError'
}

export interface Site {
  readonly infoHash: string
  readonly name: string
  readonly files: ReadonlyMap<string, { readonly length: number }>
  /** A file's bytes, as soon as they have come. */
  read(path: string): Promise<ArrayBuffer>
  /** Goes on to fetch everything, if it is not too much. */
  fetchRest(): void
}

/** A torrent that has been joined; `site` comes once its metadata has. */
export interface Visit {
  readonly site: Promise<Site>
  leave(): void
}

export interface VisitOptions {
  readonly trackers: readonly string[]
  readonly onChange: (swarm: Swarm) => void
}

let client: Promise<WebTorrent> | undefined

/** Starts loading WebTorrent, which is most of what this app weighs. */
export function prepare(): Promise<WebTorrent> {
  client ??= start()
  return client
}

async function start(): Promise<WebTorrent> {
  try {
    const { default: Client } = await import('webtorrent/dist/webtorrent.min.js')
    const started = new Client({ tracker: { rtcConfig: await iceServers() } })
    // Errors of one torrent are told by that torrent; what is left is of no torrent on display.
    started.on('error', () => {})
    return started
  } catch {
    client = undefined
    throw new ConnectionError('the rest of this page could not be fetched')
  }
}

/** The ICE servers that this page's own server names; none, if it names none: then no third party is asked either. */
async function iceServers(): Promise<RTCConfiguration> {
  try {
    const answer = await fetch('/v1/ice')
    return answer.ok ? ((await answer.json()) as RTCConfiguration) : { iceServers: [] }
  } catch {
    return { iceServers: [] }
  }
}

/** Joins the swarm of `infoHash`; `webSeed` is where it can also be read by HTTP, if anywhere. */
export function visit(infoHash: string, webSeed: Promise<string | null>, { trackers, onChange }: VisitOptions): Visit {
  let torrent: Torrent | undefined
  let left = false
  let timer: ReturnType<typeof setInterval> | undefined

  const site = Promise.all([prepare(), webSeed]).then(
    ([webtorrent, seed]) =>
      new Promise<Site>((found, failed) => {
        if (left) return
        const joined = webtorrent.add(addressOf(infoHash, seed), {
          announce: trackers,
          store: MemoryStore,
          storeCacheSlots: 0,
          deselect: true,
        })
        torrent = joined
        const tell = () => onChange({ peers: joined.numPeers, progress: joined.progress, speed: joined.downloadSpeed })
        timer = setInterval(tell, REFRESH)
        joined.on('wire', tell)
        joined.on('error', (error) => failed(new TorrentError(typeof error === 'string' ? error : error.message)))
        joined.on('ready', () => {
          if (seed !== null) void addWebSeed(joined, seed)
          found(openSite(infoHash, joined))
        })
      }),
  )
  return {
    site,
    leave() {
      left = true
      clearInterval(timer)
      if (torrent && !torrent.destroyed) torrent.destroy({ destroyStore: true })
    },
  }
}

function openSite(infoHash: string, torrent: Torrent): Site {
  const files = byPath<TorrentFile>(torrent.files)
  return {
    infoHash,
    name: torrent.name,
    files,
    async read(path) {
      const file = files.get(path)
      if (!file) throw new TorrentError(`there is no file ${path}`)
      file.select(URGENT)
      return file.length === 0 ? new ArrayBuffer(0) : file.arrayBuffer()
    },
    fetchRest() {
      if (torrent.length <= FETCH_WHOLE) torrent.select(0, torrent.pieces.length - 1)
    },
  }
}

/**
 * The trackers to announce to: this page's own server, then those of the link which this page may talk to. A page that
 * came over TLS may not use a plain socket.
 */
export function chooseTrackers(own: string, magnet: Magnet): readonly string[] {
  const allowed = own.startsWith('wss:') ? /^wss:\/\//i : /^wss?:\/\//i
  const foreign = magnet.trackers.filter((tracker) => allowed.test(tracker) && tracker !== own)
  return [own, ...foreign.slice(0, FOREIGN_TRACKERS)]
}
