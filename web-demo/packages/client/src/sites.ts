/**
 * Sites: torrents of files under a key, opened, followed and published over a WebTorrent instance that is handed in.
 *
 * ```ts
 * const site = await openSite(webtorrent, 'magnet:?xs=urn:btpk:…', { gateway })
 * await site.file('posts/hi.md').text()
 * image.src = await site.url('img/a.png')
 * site.addEventListener('update', ({ detail }) => detail.accept())
 * await publishSite(webtorrent, { 'index.md': '# Hi' }, { key, gateway, baseSeq: 0, trackers })
 * ```
 * @module
 */
import { signRecord, type Bytes, type Gateway, type SigningKey, type Stored, type VerifiedRecord } from './index.ts'
import { formatMagnet, parseMagnet, type Magnet } from './magnet.ts'
import { addressOf, addWebSeed, type Seedable } from './web-seeds.ts'

/** What is used of a WebTorrent client. */
export interface TorrentClient {
  /** @param torrent an info hash, or a link to one */
  add(torrent: string, options: object): Torrent
  seed(files: readonly File[], options: object, seeding: (torrent: Torrent) => void): Torrent
}

/** What is used of its torrents. */
export interface Torrent extends Seedable {
  readonly infoHash: string
  readonly name: string
  readonly files: readonly TorrentFile[]
  on(event: 'ready', listener: () => void): unknown
  on(event: 'error', listener: (error: Error | string) => void): unknown
  destroy(): void
}

/** What is used of their files. */
export interface TorrentFile {
  readonly path: string
  readonly length: number
  readonly type: string
  arrayBuffer(): Promise<ArrayBuffer>
}

export interface OpenOptions {
  /** Its server is read as a web seed too, beside the swarm, when it has the site. */
  readonly gateway: Pick<Gateway, 'get' | 'subscribe' | 'webSeed'>
  /** Asked for peers besides those of the link. */
  readonly trackers?: readonly string[] | undefined
  /** Handed to WebTorrent's `add` as it is: a store, for one. */
  readonly torrent?: object | undefined
  /** Ends the opening; later, the following. */
  readonly signal?: AbortSignal | undefined
}

export interface PublishOptions {
  readonly key: SigningKey
  readonly gateway: Pick<Gateway, 'put'>
  /** The version that was edited: the new one is published only if it still stands. 0 for the first one. */
  readonly baseSeq: number
  readonly trackers: readonly string[]
  readonly salt?: Bytes | undefined
  readonly name?: string | undefined
  /** Handed to WebTorrent's `seed` as it is. */
  readonly torrent?: object | undefined
}

export interface Published {
  readonly record: VerifiedRecord
  readonly stored: Stored
  /** What is being seeded: for as long as this page is open, unless others take over. */
  readonly torrent: Torrent
  /** A link to share. */
  readonly magnet: string
}

/** A newer version, waiting for somebody to want it. */
export interface Update {
  readonly record: VerifiedRecord
  /** Opens it; until its file list is there, the site stays what it was. */
  accept(): Promise<void>
}

/** There is no such site, or no such file in it. */
export class SiteError extends Error {
  override name = 'SiteError'
}

/**
 * Opens the newest version of a link's site; where no record is to be had, the version that the link itself names.
 * @throws {SiteError} when there is neither
 * @throws what {@link Gateway.get} throws, if the link names no version
 */
export async function openSite(client: TorrentClient, link: string, options: OpenOptions): Promise<Site> {
  const magnet = parseMagnet(link)
  const record = magnet.key === null ? null : await findRecord(magnet, magnet.key, options)
  const infoHash = record ? record.infoHash : magnet.infoHash
  if (infoHash === null) throw new SiteError('nothing is published under this key, or it points to no torrent')
  const site = new Site(client, magnet, options)
  await site[OPEN](infoHash, record)
  if (magnet.key !== null) void site[FOLLOW](magnet.key)
  return site
}

/**
 * Seeds files, signs a record that points to them, and puts it.
 * @param files contents by path in the site, such as `posts/hi.md`
 * @throws {ConflictError} when another version has been published since `baseSeq`; it carries that version
 */
export async function publishSite(
  client: TorrentClient,
  files: Readonly<Record<string, BlobPart>>,
  options: PublishOptions,
): Promise<Published> {
  const { key, gateway, baseSeq, trackers, salt = new Uint8Array(), name = 'site', torrent: extra } = options
  const torrent = await seed(client, files, name, { announce: trackers, ...extra })
  try {
    const record = await signRecord(key, { infoHash: torrent.infoHash, seq: baseSeq + 1, salt })
    const stored = await gateway.put(record, { cas: baseSeq })
    const magnet = formatMagnet({ key: key.publicKey, salt, infoHash: torrent.infoHash, name, trackers })
    return { record, stored, torrent, magnet }
  } catch (error) {
    torrent.destroy()
    throw error
  }
}

const OPEN = Symbol('open')
const FOLLOW = Symbol('follow')

/** A site on display: one version of it, until an `update` is accepted. */
export class Site extends EventTarget {
  /** The record on display; `null` when the link alone said which version it is. */
  record: VerifiedRecord | null = null
  #torrent: Torrent | null = null
  #files: ReadonlyMap<string, TorrentFile> = new Map()
  #urls = new Map<string, Promise<string>>()
  readonly #client: TorrentClient
  readonly #magnet: Magnet
  readonly #options: OpenOptions
  readonly #closed = new AbortController()

  /** Use {@link openSite}. */
  constructor(client: TorrentClient, magnet: Magnet, options: OpenOptions) {
    super()
    this.#client = client
    this.#magnet = magnet
    this.#options = options
  }

  get infoHash(): string {
    return this.#torrent?.infoHash ?? ''
  }

  get name(): string {
    return this.#torrent?.name ?? ''
  }

  /** The paths of all files. */
  get paths(): readonly string[] {
    return [...this.#files.keys()]
  }

  /** @throws {SiteError} when the version on display has no such file */
  file(path: string): SiteFile {
    const file = this.#files.get(path)
    if (!file) throw new SiteError(`there is no file ${path}`)
    return new SiteFile(path, file)
  }

  /** An address for `src`, good until the site is closed or another version is shown. */
  async url(path: string): Promise<string> {
    const url = this.#urls.get(path) ?? this.file(path).blob().then(URL.createObjectURL)
    this.#urls.set(path, url)
    // What could not be read now may be there the next time.
    url.catch(() => {
      if (this.#urls.get(path) === url) this.#urls.delete(path)
    })
    return url
  }

  /** Leaves the swarm and follows the site no more. */
  close(): void {
    this.#closed.abort()
    this.#release()
  }

  async [OPEN](infoHash: string, record: VerifiedRecord | null): Promise<void> {
    if (infoHash !== this.#torrent?.infoHash) {
      const { trackers = [], torrent: extra, gateway } = this.#options
      const announce = [...new Set([...trackers, ...this.#magnet.trackers])]
      const stop = this.#stop
      const seed = await gateway.webSeed(infoHash, { signal: stop })
      stop.throwIfAborted()
      const torrent = this.#client.add(addressOf(infoHash, seed), { announce, ...extra })
      await ready(torrent, stop)
      if (seed !== null) void addWebSeed(torrent, seed)
      this.#release()
      this.#torrent = torrent
      this.#files = byPath(torrent.files)
    }
    this.record = record
  }

  async [FOLLOW](key: string): Promise<void> {
    const options = { salt: this.#magnet.salt, ...(this.record && { known: this.record }), signal: this.#stop }
    try {
      for await (const record of this.#options.gateway.subscribe(key, options)) {
        const { infoHash } = record
        if (infoHash === null) continue
        const detail: Update = { record, accept: () => this[OPEN](infoHash, record) }
        this.dispatchEvent(new CustomEvent('update', { detail }))
      }
    } catch {
      // Closed, or no server can be followed; the version on display is as good as before.
    }
  }

  /** Ends what is under way: the caller's signal, or closing. */
  get #stop(): AbortSignal {
    const { signal } = this.#options
    return signal ? AbortSignal.any([signal, this.#closed.signal]) : this.#closed.signal
  }

  #release(): void {
    this.#torrent?.destroy()
    for (const url of this.#urls.values()) url.then(URL.revokeObjectURL, () => {})
    this.#urls = new Map()
  }
}

export interface Site {
  addEventListener(type: 'update', listener: (event: CustomEvent<Update>) => void): void
  addEventListener(...arguments_: Parameters<EventTarget['addEventListener']>): void
}

/** A file of a site; its bytes come from the swarm when they are asked for. */
export class SiteFile {
  readonly #file: TorrentFile

  constructor(
    readonly path: string,
    file: TorrentFile,
  ) {
    this.#file = file
  }

  get length(): number {
    return this.#file.length
  }

  async bytes(): Promise<ArrayBuffer> {
    return this.length === 0 ? new ArrayBuffer(0) : this.#file.arrayBuffer()
  }

  async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes())
  }

  /**
   * Only pictures, sound, film and fonts keep their type. At a `blob:` address a document would run as part of the page
   * that made it, and an SVG picture is a document too: whoever shows one in an `img` names its type.
   */
  async blob(): Promise<Blob> {
    const { type } = this.#file
    const harmless = /^(?:image|audio|video|font)\//.test(type) && !type.includes('svg')
    return new Blob([await this.bytes()], { type: harmless ? type : 'application/octet-stream' })
  }
}

async function findRecord(
  magnet: Magnet,
  key: string,
  { gateway, signal }: OpenOptions,
): Promise<VerifiedRecord | null> {
  try {
    return await gateway.get(key, { salt: magnet.salt, ...(signal && { signal }) })
  } catch (error) {
    // A lie is told; a server that is not there is not the end when the link names a version.
    const lied = error instanceof Error && (error.name === 'ForgedError' || error.name === 'StaleError')
    if (signal?.aborted || lied || magnet.infoHash === null) throw error
    return null
  }
}

/** Waits for a torrent's file list; what does not get there is let go of. */
async function ready(torrent: Torrent, signal: AbortSignal): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      if (signal.aborted) reject(signal.reason as Error)
      signal.addEventListener('abort', () => reject(signal.reason as Error))
      torrent.on('ready', resolve)
      torrent.on('error', (error) => reject(new SiteError(typeof error === 'string' ? error : error.message)))
    })
  } catch (error) {
    torrent.destroy()
    throw error
  }
}

function seed(
  client: TorrentClient,
  files: Readonly<Record<string, BlobPart>>,
  name: string,
  options: object,
): Promise<Torrent> {
  const entries = Object.entries(files)
  // A torrent of one file has no folder: its name is the file's.
  const [alone] = entries.length === 1 ? (entries[0] as [string, BlobPart]) : []
  const title = alone !== undefined && !alone.includes('/') ? alone : name
  const inputs = entries.map(([path, content]) => {
    // WebTorrent takes the folder that all files share for the torrent's name: that is one of ours, not of the site's.
    const fullPath = entries.length > 1 ? `site/${path}` : path
    return Object.assign(new File([content], path.slice(path.lastIndexOf('/') + 1)), { fullPath })
  })
  return new Promise((resolve, reject) => {
    const torrent = client.seed(inputs, { name: title, ...options }, resolve)
    torrent.on('error', (error) => reject(new SiteError(typeof error === 'string' ? error : error.message)))
  })
}

/** A torrent's files by their path in the site: the torrent's own name, the folder around them all, taken off. */
function byPath(files: readonly TorrentFile[]): ReadonlyMap<string, TorrentFile> {
  const paths = files.map((file) => file.path.replaceAll('\\', '/'))
  const root = `${paths[0]?.split('/', 1)[0] ?? ''}/`
  const folder = paths.every((path) => path.startsWith(root)) ? root.length : 0
  return new Map(files.map((file, i) => [(paths[i] as string).slice(folder), file]))
}
