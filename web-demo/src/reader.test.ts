import {
  ConnectionError,
  ForgedError,
  importSeed,
  ProxyError,
  signRecord,
  StaleError,
  UnsupportedError,
  type GetOptions,
  type SubscribeOptions,
  type VerifiedRecord,
} from 'swarmgate-client'
import { parseMagnet } from 'swarmgate-client/magnet'
import { beforeEach, expect, test, vi } from 'vitest'

import { Reader, shareRoute, toProblem, type World } from './reader.ts'
import { formatRoute } from './route.ts'
import { createStore, type Store } from './store.ts'
import { chooseTrackers, TorrentError, type Site, type VisitOptions } from './swarm.ts'

// markdown-it's entities come from the browser, which is not here; no page of these tests has one.
vi.mock('./site/door.ts', () => ({ decodeEntity: (entity: string) => entity }))

const [IH1, IH2] = ['11'.repeat(20), '22'.repeat(20)]
const key = await importSeed(new Uint8Array(32).fill(5))
const one = await signRecord(key, { infoHash: IH1, seq: 1 })
const two = await signRecord(key, { infoHash: IH2, seq: 2 })
const LINK = `#magnet:?xs=urn:btpk:${key.publicKey}`

const FILES: Record<string, Record<string, string>> = {
  [IH1]: { 'index.md': '# One', 'posts/hi.md': '# Hi', 'big.md': 'x'.repeat(4 * 1024 * 1024 + 1) },
  [IH2]: { 'index.md': '# Two' },
}

interface FakeVisit {
  readonly infoHash: string
  readonly options: VisitOptions
  readonly leave: ReturnType<typeof vi.fn>
  /** Lets the metadata come. */
  readonly arrive: (site?: Site) => void
  readonly fail: (error: Error) => void
}

/** Has a followed server say what is newest. */
let push: (record: VerifiedRecord | null) => void
let followed: SubscribeOptions[]
let answer: (options: GetOptions) => Promise<VerifiedRecord | null>
let asked: GetOptions[]
let visits: FakeVisit[]
let now: number
let store: Store
let reader: Reader

function fakeSite(infoHash: string): Site {
  const files = FILES[infoHash] ?? {}
  return {
    infoHash,
    name: 'site',
    files: new Map(Object.entries(files).map(([path, { length }]) => [path, { length }])),
    read: async (path) => new TextEncoder().encode(files[path]).buffer,
    fetchRest: vi.fn(),
  }
}

beforeEach(() => {
  answer = async () => one
  asked = []
  followed = []
  visits = []
  now = 1_000
  store = createStore(() => {})
  reader = new Reader(store, world())
})

function world(overrides: Partial<World> = {}): World {
  return {
    gateway: {
      get: (_key, options = {}) => (asked.push(options), answer(options)),
      subscribe: (_key, options = {}) => (followed.push(options), stream(options)),
    },
    visit: (infoHash, options) => {
      const leave = vi.fn()
      const site = new Promise<Site>((resolve, fail) => {
        visits.push({ infoHash, options, leave, arrive: (site = fakeSite(infoHash)) => resolve(site), fail })
      })
      return { site, leave }
    },
    tracker: 'ws://here/announce',
    now: () => now,
    obstacle: null,
    ...overrides,
  }
}

async function* stream({ heard, signal }: SubscribeOptions): AsyncGenerator<VerifiedRecord, void, undefined> {
  while (true) {
    const record = await new Promise<VerifiedRecord | null>((resolve, reject) => {
      push = resolve
      signal?.addEventListener('abort', () => reject(signal.reason as Error))
    })
    if (record) yield record
    else heard?.()
  }
}

/** Lets everything that waits for nothing happen. */
const settle = () => new Promise((resolve) => setImmediate(resolve))
const visit = (index = 0) => visits[index] as FakeVisit

async function show(hash = LINK): Promise<void> {
  void reader.route(hash)
  await settle()
  visit().arrive()
  await settle()
}

test('from a key to a page', async () => {
  void reader.route(LINK)
  expect(store.state.phase).toBe('finding-record')
  await settle()
  expect(store.state).toMatchObject({ phase: 'finding-peers', record: one, checkedAt: 1_000 })
  expect(visit().options.trackers).toEqual(['ws://here/announce'])
  visit().arrive()
  await settle()
  expect(store.state).toMatchObject({
    phase: 'shown',
    page: { path: 'index.md', title: 'One' },
    version: { infoHash: IH1, name: 'site' },
  })
})

test('from an info hash to a page, with nobody asked', async () => {
  await show(`#magnet:?xt=urn:btih:${IH1}`)
  expect(store.state).toMatchObject({ phase: 'shown', record: null })
  expect(asked).toEqual([])
})

test('going about the site and back', async () => {
  await show()
  const to = (page: string) => `${LINK}&x.page=${encodeURIComponent(page)}`
  await reader.route(to('posts/hi.md'))
  expect(store.state).toMatchObject({ phase: 'shown', page: { path: 'posts/hi.md', title: 'Hi' } })
  await reader.route(to('gone.md'))
  expect(store.state.problem).toEqual({ code: 'page-missing', detail: 'gone.md' })
  await reader.route(to('big.md'))
  expect(store.state.problem).toEqual({ code: 'page-too-large', detail: 'big.md' })
  await reader.route(LINK, 120)
  expect(store.state).toMatchObject({ phase: 'shown', page: { path: 'index.md' }, problem: null, scroll: 120 })
  expect(visits).toHaveLength(1)
})

test('an anchor does not load the page again', async () => {
  await show()
  const { page } = store.state
  await reader.route(`${LINK}&x.page=index.md&x.at=one`)
  expect(store.state.page).toBe(page)
  expect(store.state.place.heading).toBe('one')
})

test('leaving for another site lets go of this one', async () => {
  await show()
  void reader.route(`#magnet:?xt=urn:btih:${IH2}`)
  expect(visit().leave).toHaveBeenCalledOnce()
  await settle()
  await reader.route('')
  expect(visit(1).leave).toHaveBeenCalled()
  expect(store.state.phase).toBe('start')
  visit(1).arrive()
  await settle()
  expect(store.state.phase).toBe('start')
})

test('a newer record is offered, and shown when wanted', async () => {
  await show()
  expect(followed).toEqual([expect.objectContaining({ known: one })])
  now = 4_000
  push(null)
  await settle()
  expect(store.state).toMatchObject({ update: null, checkedAt: 4_000 })
  now = 5_000
  push(two)
  await settle()
  expect(store.state).toMatchObject({ update: two, record: one, page: { title: 'One' }, checkedAt: 5_000 })

  void reader.acceptUpdate()
  await settle()
  expect(store.state).toMatchObject({ record: two, update: null, phase: 'finding-peers', page: { title: 'One' } })
  expect(visit(0).leave).not.toHaveBeenCalled()
  visit(1).arrive()
  await settle()
  expect(store.state).toMatchObject({ phase: 'shown', page: { title: 'Two' }, version: { infoHash: IH2 } })
  expect(visit(0).leave).toHaveBeenCalledOnce()
})

test('a newer record of the same torrent joins no swarm twice', async () => {
  await show()
  const again = await signRecord(key, { infoHash: IH1, seq: 9 })
  push(again)
  await settle()
  await reader.acceptUpdate()
  expect(store.state).toMatchObject({ record: again, phase: 'shown' })
  expect(visits).toHaveLength(1)
})

test('somebody who asks makes the server ask', async () => {
  await show()
  await reader.check()
  expect(asked[1]).toMatchObject({ maxAge: 0, known: one })
  expect(store.state.notice).toBe('up-to-date')
  answer = () => Promise.reject(new ConnectionError('no'))
  await reader.check()
  expect(store.state).toMatchObject({ notice: 'check-failed', phase: 'shown', checking: false })
})

test('whoever leaves a site follows it no more', async () => {
  await show()
  await reader.route('')
  expect(followed[0]?.signal?.aborted).toBe(true)
  await show(`#magnet:?xt=urn:btih:${IH1}`)
  expect(followed).toHaveLength(1)
})

test('without a record the version named in the link will do, unless the server lied', async () => {
  const link = `${LINK}&xt=urn:btih:${IH2}`
  answer = async () => null
  await show(link)
  expect(store.state).toMatchObject({ phase: 'shown', page: { title: 'Two' }, record: null, notice: 'unchecked' })
  answer = () => Promise.reject(new ForgedError('x', 'bad-signature'))
  await reader.retry()
  expect(store.state.problem?.code).toBe('forged')
})

test.each([
  ['not-found', null],
  ['no-server', new ConnectionError('x')],
  ['unsupported', new UnsupportedError('x')],
  ['refused', new ProxyError('x', 203)],
  ['forged', new ForgedError('x', 'malformed')],
  ['stale', new StaleError(1, 2)],
])('%s', async (code, problem) => {
  answer = () => (problem ? Promise.reject(problem) : Promise.resolve(null))
  await reader.route(LINK)
  expect(store.state).toMatchObject({ phase: 'error', problem: { code } })
  answer = async () => one
  void reader.retry()
  await settle()
  expect(store.state).toMatchObject({ phase: 'finding-peers', problem: null })
})

test('a link of nonsense is one sentence, on the start page', async () => {
  await reader.route('#hello')
  expect(store.state).toMatchObject({
    phase: 'error',
    magnet: null,
    problem: { code: 'bad-link', detail: 'not a magnet link (it must start with "magnet:?")' },
  })
  await reader.route('')
  expect(store.state.phase).toBe('start')
})

test('a record that points to no torrent', async () => {
  const other = await signRecord(key, { v: new TextEncoder().encode('2:hi'), seq: 1 })
  answer = async () => other
  await reader.route(LINK)
  expect(store.state.problem?.code).toBe('no-torrent')
})

test('nobody there: said after a while, and taken back when somebody comes', async () => {
  void reader.route(LINK)
  await settle()
  const swarm = (peers: number) => visit().options.onChange({ peers, progress: 0, speed: 0 })
  swarm(0)
  expect(store.state.phase).toBe('finding-peers')
  now += 20_001
  swarm(0)
  expect(store.state).toMatchObject({ phase: 'error', problem: { code: 'no-peers' } })
  swarm(1)
  expect(store.state).toMatchObject({ phase: 'finding-peers', problem: null })
  visit().arrive()
  await settle()
  expect(store.state.phase).toBe('shown')
})

test('a torrent that fails, one without pages, a page that cannot be opened here', async () => {
  void reader.route(LINK)
  await settle()
  visit().fail(new TorrentError('broken'))
  await settle()
  expect(store.state.problem).toEqual({ code: 'torrent', detail: 'broken' })

  void reader.retry()
  await settle()
  visit(1).arrive({ ...fakeSite(IH1), files: new Map([['a.png', { length: 1 }]]) })
  await settle()
  expect(store.state.problem?.code).toBe('no-page')

  const problem = { code: 'insecure', detail: '' } as const
  reader = new Reader(store, world({ obstacle: problem }))
  await reader.route(`#magnet:?xt=urn:btih:${IH2}`)
  expect(store.state.problem).toBe(problem)
})

test('images are images, other files are never shown', async () => {
  const site = fakeSite(IH1)
  void reader.route(LINK)
  await settle()
  visit().arrive({ ...site, read: async () => new ArrayBuffer(3) })
  await settle()
  expect(await reader.image('a.svg')).toMatchObject({ type: 'image/svg+xml', size: 3 })
  await expect(reader.image('a.html')).rejects.toThrow('no such image')
  expect((await reader.file('a.html')).type).toBe('application/octet-stream')
})

test('whatever else is thrown is told, not lost', () => {
  expect(toProblem(new TypeError('x is not a function'))).toEqual({ code: 'unexpected', detail: 'x is not a function' })
  expect(toProblem('x')).toEqual({ code: 'unexpected', detail: 'x' })
})

test('a shared link carries key, current version and name', async () => {
  await show()
  const route = shareRoute(store.state, 'wss://here/announce')
  expect(route && formatRoute(route)).toBe(`${LINK}&xt=urn:btih:${IH1}&dn=One&tr=wss%3A%2F%2Fhere%2Fannounce`)
})

test('trackers: our own first, and of the others those the page may talk to', () => {
  const list = ['udp://a', 'ws://b', 'wss://c', 'http://d', 'wss://here/announce', ...'efghi'].map((t) => `&tr=${t}`)
  const magnet = parseMagnet(`magnet:?xt=urn:btih:${IH1}${list.join('')}`)
  expect(chooseTrackers('wss://here/announce', magnet)).toEqual(['wss://here/announce', 'wss://c'])
  expect(chooseTrackers('ws://here/announce', magnet)).toEqual([
    'ws://here/announce',
    'ws://b',
    'wss://c',
    'wss://here/announce',
  ])
})
