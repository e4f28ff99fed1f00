// @ts-expect-error: no types are published for it
import Protocol from 'bittorrent-protocol'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { decodeMessage, encodeHave, encodeRecord, NAME, versionOf, type Message } from './exchange.ts'
import { joinTopic, type SwarmClient, type Topic, type TopicOptions, type Wire } from './gossip.ts'
import {
  importSeed,
  memoryFloor,
  RecordError,
  replaces,
  signRecord,
  toHex,
  verifyRecord,
  type VerifiedRecord,
} from './index.ts'
import { recordFields, type RecordFields } from './messages.ts'
import { fromFields, hex, vectors, type Case } from './testing.ts'

const key = await importSeed(new Uint8Array(32).fill(1))
const versions = await Promise.all(
  Array.from({ length: 12 }, (_, seq) => signRecord(key, { infoHash: '11'.repeat(20), seq })),
)
const record = (seq: number) => versions[seq] as VerifiedRecord

/** A page: a topic, and a way to connect it. `bittorrent-protocol` is what WebTorrent's connections are made of. */
interface Page {
  readonly topic: Topic
  readonly told: number[]
  readonly connect: (wire: Wire) => void
  readonly left: () => boolean
}

function page(options: Partial<TopicOptions> = {}): Page {
  const listeners: ((wire: Wire) => void)[] = []
  const destroy = vi.fn()
  const client: SwarmClient = { add: () => ({ on: (_, listener) => listeners.push(listener), destroy }) }
  const topic = joinTopic(client, key.publicKey, { trackers: [], ...options })
  const told: number[] = []
  topic.addEventListener('record', ({ detail }) => told.push(detail.seq))
  return {
    topic,
    told,
    connect: (wire) => listeners.forEach((f) => f(wire)),
    left: () => destroy.mock.calls.length > 0,
  }
}

/** Two ends of one connection, with every payload of the extension that went over it. */
function pair(a: (wire: Wire) => void, b: (wire: Wire) => void) {
  const [left, right] = [new Protocol('webrtc'), new Protocol('webrtc')]
  for (const wire of [left, right]) wire.on('error', () => {})
  left.pipe(right).pipe(left)
  const sent: Message[] = []
  for (const wire of [left, right]) {
    const real = wire.extended.bind(wire)
    wire.extended = (name: string | number, payload: Uint8Array) => {
      if (name === NAME) sent.push(decodeMessage(payload) as Message)
      real(name, payload)
    }
  }
  a(left)
  b(right)
  for (const wire of [left, right]) wire.handshake('11'.repeat(20), toHex(crypto.getRandomValues(new Uint8Array(20))))
  return { left, right, sent }
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 30))
const seqs = (sent: readonly Message[]) => sent.flatMap((m) => (m.kind === 'record' ? [m.record.seq] : []))

/** A peer that says what it is told to. */
function stranger() {
  let wire: Wire | undefined
  const connect = (own: Wire) => {
    wire = own
    class Exchange {}
    Object.defineProperty(Exchange.prototype, 'name', { value: NAME })
    own.use(Exchange)
  }
  return { connect, say: (payload: Uint8Array) => wire?.extended(NAME, payload) }
}

describe('a topic', () => {
  test('on meeting, whoever has the newer version gives it', async () => {
    const [a, b] = [page({ known: record(3) }), page({ known: record(1) })]
    const { sent } = pair(a.connect, b.connect)
    await vi.waitFor(() => expect(b.told).toEqual([3]))
    expect(a.topic.peers).toBe(1)
    expect(b.topic.newest).toEqual(record(3))
    expect(a.told).toEqual([])
    expect(seqs(sent)).toEqual([3])
  })

  test('an update goes from peer to peer, to each once, and not back', async () => {
    const [a, b, c] = [page({ known: record(1) }), page({ known: record(1) }), page()]
    const [ab, bc] = [pair(a.connect, b.connect), pair(b.connect, c.connect)]
    await vi.waitFor(() => expect(c.told).toEqual([1]))
    a.topic.tell(record(2))
    await vi.waitFor(() => expect(c.told).toEqual([1, 2]))
    expect(b.told).toEqual([2])
    await settle()
    expect([seqs(ab.sent), seqs(bc.sent)]).toEqual([[2], [1, 2]])
  })

  test('peers with two values of one number agree on the larger', async () => {
    const larger = await signRecord(key, { infoHash: '22'.repeat(20), seq: 3 })
    const [a, b] = [page({ known: record(3) }), page({ known: larger })]
    const conflicts: VerifiedRecord[] = []
    for (const { topic } of [a, b]) topic.addEventListener('conflict', ({ detail }) => conflicts.push(detail))
    pair(a.connect, b.connect)
    await vi.waitFor(() => expect(a.topic.newest).toEqual(larger))
    await settle()
    expect(b.topic.newest).toEqual(larger)
    expect(conflicts.length).toBeGreaterThan(0)
  })

  test('a forged record ends the connection and goes nowhere', async () => {
    const [victim, friend, liar] = [page({ known: record(1) }), page(), stranger()]
    pair(victim.connect, friend.connect)
    const { left } = pair(victim.connect, liar.connect)
    await vi.waitFor(() => expect(victim.topic.peers).toBe(2))
    liar.say(encodeRecord({ ...record(1), seq: 9 }))
    await vi.waitFor(() => expect(left.destroyed).toBe(true))
    expect([victim.told, friend.told]).toEqual([[], [1]])
  })

  test('what is old, of another record, or no message at all is passed over', async () => {
    const other = await signRecord(await importSeed(new Uint8Array(32).fill(2)), { infoHash: '11'.repeat(20), seq: 9 })
    const floor = memoryFloor()
    await floor.raise(record(0).target, 5)
    const [victim, liar] = [page({ floor }), stranger()]
    const { left, sent } = pair(victim.connect, liar.connect)
    await vi.waitFor(() => expect(victim.topic.peers).toBe(1))
    for (const payload of [hex('00'), encodeRecord(other), encodeRecord(record(4)), new Uint8Array(5000)])
      liar.say(payload)
    liar.say(encodeRecord(record(6)))
    await vi.waitFor(() => expect(victim.told).toEqual([6]))
    expect(left.destroyed).toBe(false)
    expect(sent.filter((m) => m?.kind === 'record' && m.record.seq === 6)).toHaveLength(1)
  })

  test('leaving leaves the swarm and says no more', async () => {
    const [a, b] = [page(), page()]
    pair(a.connect, b.connect)
    await vi.waitFor(() => expect(a.topic.peers).toBe(1))
    b.topic.leave()
    a.topic.tell(record(2))
    expect(b.left()).toBe(true)
    expect(() => b.topic.tell(record(2))).not.toThrow()
  })
})

describe('limits', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] }))
  afterEach(() => void vi.useRealTimers())

  test('of many versions at once four go out, then the newest when its turn has come', async () => {
    const [author, reader] = [page(), page()]
    const { sent } = pair(author.connect, reader.connect)
    await vi.waitFor(() => expect([author.topic.peers, reader.topic.peers]).toEqual([1, 1]))
    await vi.waitFor(() => expect(sent).toHaveLength(2)) // both greetings
    await vi.advanceTimersByTimeAsync(50)
    for (let seq = 1; seq < 12; seq++) author.topic.tell(record(seq))
    expect(seqs(sent)).toEqual([1, 2, 3, 4])
    await vi.advanceTimersByTimeAsync(5_000)
    expect(seqs(sent)).toEqual([1, 2, 3, 4, 11])
  })

  test('twenty signatures are checked at once', async () => {
    const [victim, liar] = [page(), stranger()]
    pair(victim.connect, liar.connect)
    await vi.waitFor(() => expect(victim.topic.peers).toBe(1))
    const verify = vi.spyOn(crypto.subtle, 'verify')
    // Not a lie, but not canonical either: nothing to end the connection for.
    for (let i = 0; i < 40; i++) liar.say(encodeRecord({ ...record(1), seq: 2, v: hex('00'), sig: new Uint8Array(64) }))
    liar.say(encodeRecord(record(3)))
    await vi.advanceTimersByTimeAsync(100)
    expect(verify).not.toHaveBeenCalled()
    await vi.advanceTimersByTimeAsync(1_000)
    liar.say(encodeRecord(record(3)))
    await vi.waitFor(() => expect(victim.told).toEqual([3]))
  })
})

describe('exchange.json', () => {
  type Has = { readonly k: string; readonly salt?: string; readonly seq?: number; readonly h?: string }
  type Expected = { readonly kind: string; readonly records?: readonly Has[]; readonly record?: RecordFields }
  const { messages, records, order } = vectors<{
    messages: Case<string, Expected>[]
    records: Case<string, { readonly target: string }>[]
    order: Case<{ offered: RecordFields; known: RecordFields }, { replaces: boolean; conflict: boolean }>[]
  }>('exchange')

  test.each(messages)('$comment', ({ input, result, expected }) => {
    const message = decodeMessage(hex(input))
    if (result === 'invalid') return expect(message).toBeNull()
    const seen =
      message?.kind === 'have'
        ? {
            ...message,
            records: message.records.map(({ key, salt, version }) => ({
              k: key,
              ...(salt.length > 0 && { salt: toHex(salt) }),
              ...(version && { seq: version.seq, h: version.hash }),
            })),
          }
        : message?.kind === 'record'
          ? { ...message, record: recordFields(message.record) }
          : message
    expect(seen).toEqual(expected)
    if (message?.kind === 'have') expect(decodeMessage(encodeHave(message.records))).toEqual(message)
    if (message?.kind === 'record') expect(decodeMessage(encodeRecord(message.record))).toEqual(message)
    return undefined
  })

  test.each(records)('record: $comment', async ({ input, result, expected, code }) => {
    const message = decodeMessage(hex(input)) as Message & { kind: 'record' }
    const outcome = await verifyRecord(message.record).catch((error: unknown) => error)
    if (result === 'valid') expect(outcome).toMatchObject(expected)
    else expect(outcome).toBeInstanceOf(RecordError)
    if (result === 'invalid') expect(outcome).toMatchObject({ code })
  })

  test.each(order)('order: $comment', ({ input, expected }) => {
    const [offered, known] = [fromFields(input.offered), fromFields(input.known)]
    const conflict = offered.seq === known.seq && versionOf(offered).hash !== versionOf(known).hash
    expect({ replaces: replaces(offered, known), conflict }).toEqual(expected)
  })
})
