import { beforeEach, expect, test, vi } from 'vitest'

import { ConflictError, ConnectionError, ForgedError, importSeed, signRecord, type VerifiedRecord } from './index.ts'
import { openSite, publishSite, SiteError, SiteFile, type Torrent, type TorrentClient, type Update } from './sites.ts'

const key = await importSeed(new Uint8Array(32).fill(1))
const [IH1, IH2] = ['11'.repeat(20), '22'.repeat(20)]
const one = await signRecord(key, { infoHash: IH1, seq: 1 })
const two = await signRecord(key, { infoHash: IH2, seq: 2 })
const LINK = `magnet:?xs=urn:btpk:${key.publicKey}&tr=wss%3A%2F%2Flink`

const CONTENTS: Record<string, Record<string, string>> = {
  [IH1]: { 'site/index.md': '# One', 'site/img/a.png': 'png', 'site/a.svg': '<svg/>', 'site/a.html': '<script>' },
  [IH2]: { 'site/index.md': '# Two', 'site/empty': '' },
}

let added: { infoHash: string; options: object; destroy: () => void; seeds: string[] }[]
let webSeed: string | null
let seeded: File[]
let seedOptions: object
let destroyed: () => void
let push: (record: VerifiedRecord) => void
let answer: () => Promise<VerifiedRecord | null>

function torrent(infoHash: string, destroy: () => void, seeds: string[] = []): Torrent {
  const types: Record<string, string> = {
    png: 'image/png',
    svg: 'image/svg+xml',
    html: 'text/html',
    md: 'text/markdown',
  }
  const files = Object.entries(CONTENTS[infoHash] ?? {}).map(([path, text]) => ({
    path,
    length: text.length,
    type: types[path.split('.')[1] ?? ''] ?? '',
    arrayBuffer: async () => new TextEncoder().encode(text).buffer,
  }))
  const on = (event: string, listener: (error: Error) => void) => {
    if (event === 'ready' && CONTENTS[infoHash]) queueMicrotask(() => (listener as () => void)())
    if (event === 'error' && infoHash.startsWith('bad')) queueMicrotask(() => listener(new Error('broken')))
  }
  return { infoHash, name: 'site', files, on, destroy, addWebSeed: (url) => void seeds.push(url) }
}

const client: TorrentClient = {
  add(address, options) {
    const [destroy, seeds] = [vi.fn<() => void>(), []]
    added.push({ infoHash: address, options, destroy, seeds })
    return torrent(/[0-9a-z]{40}/.exec(address)?.[0] ?? '', destroy, seeds)
  },
  seed(files, options, seeding) {
    seeded = [...files]
    seedOptions = options
    const made = torrent(IH2, destroyed)
    queueMicrotask(() => seeding(made))
    return made
  },
}

const gateway = {
  get: () => answer(),
  webSeed: async () => webSeed,
  async *subscribe(
    _key: string,
    { signal }: { signal?: AbortSignal } = {},
  ): AsyncGenerator<VerifiedRecord, void, undefined> {
    while (true) {
      yield await new Promise<VerifiedRecord>((resolve, reject) => {
        push = resolve
        signal?.addEventListener('abort', () => reject(signal.reason as Error))
      })
    }
  },
  put: vi.fn(async (record: VerifiedRecord) => ({ target: record.target, stored: 3, conflict: false })),
}

beforeEach(() => {
  added = []
  webSeed = null
  seeded = []
  destroyed = vi.fn<() => void>()
  answer = async () => one
})

const open = (link = LINK) => openSite(client, link, { gateway, trackers: ['wss://here'] })

test('opens the version that the record points to', async () => {
  const site = await open()
  expect(added[0]).toMatchObject({ infoHash: IH1, options: { announce: ['wss://here', 'wss://link'] } })
  expect(site).toMatchObject({ infoHash: IH1, name: 'site', record: one })
  expect(site.paths).toEqual(['index.md', 'img/a.png', 'a.svg', 'a.html'])
  expect(await site.file('index.md').text()).toBe('# One')
  expect(() => site.file('gone.md')).toThrow(SiteError)
  site.close()
  expect(added[0]?.destroy).toHaveBeenCalledOnce()
})

test('reads the server too, when it has the whole site', async () => {
  webSeed = `https://host/seeds/${IH1}/`
  vi.stubGlobal('fetch', async () => ({ ok: true }))
  const site = await open()
  const file = encodeURIComponent(`https://host/seeds/${IH1}.torrent`)
  expect(added[0]).toMatchObject({ infoHash: `magnet:?xt=urn:btih:${IH1}&xs=${file}` })
  expect(site.infoHash).toBe(IH1)
  await vi.waitFor(() => expect(added[0]?.seeds).toEqual([webSeed]))
  vi.unstubAllGlobals()
})

test('addresses keep only types that cannot run', async () => {
  const site = await open()
  const type = async (path: string) => (await (await fetch(await site.url(path))).blob()).type
  expect(await type('img/a.png')).toBe('image/png')
  expect(await site.url('img/a.png')).toBe(await site.url('img/a.png'))
  for (const path of ['a.svg', 'a.html', 'index.md']) expect(await type(path)).toBe('application/octet-stream')
  const url = await site.url('img/a.png')
  site.close()
  await expect(new Promise((done) => setTimeout(done)).then(() => fetch(url))).rejects.toThrow()
})

test('a file that could not be read is tried again', async () => {
  const site = await open()
  const blob = vi.spyOn(SiteFile.prototype, 'blob').mockRejectedValueOnce(new Error('no peers'))
  await expect(site.url('img/a.png')).rejects.toThrow('no peers')
  expect(await site.url('img/a.png')).toMatch(/^blob:/)
  blob.mockRestore()
  site.close()
})

test('a newer version is offered, and shown when it is accepted', async () => {
  const site = await open()
  const offered = new Promise<Update>((resolve) => site.addEventListener('update', ({ detail }) => resolve(detail)))
  push(two)
  const update = await offered
  expect(site.infoHash).toBe(IH1)
  await update.accept()
  expect(site).toMatchObject({ infoHash: IH2, record: two })
  expect(await site.file('index.md').text()).toBe('# Two')
  expect(await site.file('empty').text()).toBe('')
  expect(added[0]?.destroy).toHaveBeenCalledOnce()
  expect(added[1]?.destroy).not.toHaveBeenCalled()
})

test('without a record the version named in the link will do, unless the server lied', async () => {
  const link = `${LINK}&xt=urn:btih:${IH2}`
  answer = () => Promise.reject(new ConnectionError('x'))
  expect(await open(link)).toMatchObject({ infoHash: IH2, record: null })
  await expect(open()).rejects.toThrow(ConnectionError)
  answer = () => Promise.reject(new ForgedError('x', 'bad-signature'))
  await expect(open(link)).rejects.toThrow(ForgedError)
  answer = async () => null
  await expect(open()).rejects.toThrow(SiteError)
})

test('a torrent that fails, or is given up, is let go of', async () => {
  const control = new AbortController()
  const waiting = openSite(client, `magnet:?xt=urn:btih:${'33'.repeat(20)}`, { gateway, signal: control.signal })
  await vi.waitFor(() => expect(added).toHaveLength(1))
  control.abort(new Error('enough'))
  await expect(waiting).rejects.toThrow('enough')
  expect(added[0]?.destroy).toHaveBeenCalled()
  await expect(openSite(client, `magnet:?xt=urn:btih:${'bad0'.repeat(10)}`, { gateway })).rejects.toThrow('broken')
})

test('publishing seeds, signs and puts', async () => {
  const files = { 'index.md': '# Two', 'posts/hi.md': 'hi' }
  const published = await publishSite(client, files, {
    key,
    gateway,
    baseSeq: 1,
    trackers: ['wss://here'],
    name: 'Tides',
  })
  expect(seeded.map((file) => [file.name, (file as File & { fullPath: string }).fullPath])).toEqual([
    ['index.md', 'site/index.md'],
    ['hi.md', 'site/posts/hi.md'],
  ])
  expect(gateway.put).toHaveBeenCalledWith(two, { cas: 1 })
  expect(published).toMatchObject({ record: two, stored: { stored: 3 } })
  const link = `magnet:?xs=urn:btpk:${key.publicKey}&xt=urn:btih:${IH2}&dn=Tides&tr=wss%3A%2F%2Fhere`
  expect(published.magnet).toBe(link)
})

test('a site of one file keeps its name', async () => {
  await publishSite(client, { 'index.md': '#' }, { key, gateway, baseSeq: 1, trackers: [], name: 'Tides' })
  expect(seedOptions).toMatchObject({ name: 'index.md' })
  expect(seeded[0]).toMatchObject({ fullPath: 'index.md' })
})

test('whoever loses a conflict seeds nothing', async () => {
  gateway.put.mockRejectedValueOnce(new ConflictError('x', 301, two))
  const publishing = publishSite(client, { 'index.md': '' }, { key, gateway, baseSeq: 1, trackers: [] })
  await expect(publishing).rejects.toMatchObject({ current: two })
  expect(destroyed).toHaveBeenCalledOnce()
})
