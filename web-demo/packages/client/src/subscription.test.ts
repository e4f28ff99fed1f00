import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import type { SigningKey } from './ed25519.ts'
import { ProxyError, UnsupportedError } from './errors.ts'
import { memoryFloor } from './floor.ts'
import { Gateway } from './gateway.ts'
import { recordFields, type RecordFields } from './messages.ts'
import { verifyRecord, type VerifiedRecord } from './record.ts'
import {
  author,
  fakeNetwork,
  fakeTime,
  found,
  fromFields,
  hex,
  outcome,
  serving,
  vectors,
  type Case,
  type FakeSocket,
  type Server,
} from './testing.ts'

const [A, B] = ['wss://a/announce', 'wss://b/announce']
const UNKNOWN = { 'failure reason': 'unknown action', code: 204 }

let key: SigningKey
let records: VerifiedRecord[]

beforeEach(async () => {
  fakeTime()
  ;({ key, records } = await author('11'.repeat(20), 5))
})
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

const record = (seq: number) => records[seq] as VerifiedRecord
const update = (item: VerifiedRecord) => ({ action: 'dht_update', target: item.target, ...recordFields(item) })
const taken = (reply: object = { found: false }): Server => serving(() => reply)
const actions = (socket?: FakeSocket) => socket?.received.map(({ action }) => String(action).slice(4))

/** A subscription whose steps are taken while time passes; `end` leaves it and lets its farewell be heard. */
function subscribe(servers: Record<string, Server>, options: Parameters<Gateway['subscribe']>[1] = {}) {
  const network = fakeNetwork(servers)
  const gateway = new Gateway(Object.keys(servers), { WebSocket: network.WebSocket, floor: memoryFloor() })
  const iterator = gateway.subscribe(key.publicKey, options)
  const next = () => outcome(iterator.next().then(({ value, done }) => (done ? 'end' : value)))
  const pass = (milliseconds: number) =>
    outcome(new Promise((done) => setTimeout(done, milliseconds)), milliseconds + 50)
  const end = () => outcome(iterator.return())
  return { ...network, gateway, next, pass, end }
}

test('the newest first, then what is pushed', async () => {
  const { sockets, next, end } = subscribe({ [A]: taken(found(record(1))) })
  expect(await next()).toEqual(record(1))
  const second = next()
  sockets[0]?.deliver(update(record(2)))
  expect(await second).toEqual(record(2))
  await end()
  const asked = { action: 'dht_subscribe', id: expect.any(String), k: key.publicKey }
  expect(sockets[0]?.received).toEqual([asked, { ...asked, action: 'dht_unsubscribe' }])
})

test('who is slow finds the newest only', async () => {
  const { sockets, next, pass, end } = subscribe({ [A]: taken(found(record(1))) })
  expect(await next()).toEqual(record(1))
  for (const seq of [2, 4, 3]) sockets[0]?.deliver(update(record(seq)))
  await pass(100)
  expect(await next()).toEqual(record(4))
  await end()
})

test('what is known is not told, and nobody is sent what they have', async () => {
  const known = record(2)
  const { sockets, next, end } = subscribe({ [A]: taken({ found: true, unchanged: true, seq: 2 }) }, { known })
  const first = next()
  await outcome(Promise.resolve())
  await vi.waitFor(() => expect(sockets[0]?.received).toMatchObject([{ seq: 2 }]))
  for (const seq of [1, 2, 3]) sockets[0]?.deliver(update(record(seq)))
  expect(await first).toEqual(record(3))
  await end()
})

test('pushes are verified like replies', async () => {
  const { sockets, next, pass, end } = subscribe({ [A]: taken(found(record(1))) }, { minSeq: 1 })
  await next()
  const lies = [
    { ...update(record(2)), seq: 3 },
    { ...update(record(2)), k: '77'.repeat(32) },
    { ...update(record(2)), sig: '00' },
    { ...update(record(2)), target: '11'.repeat(20) },
    update(record(0)),
    { action: 'dht_update' },
  ]
  for (const lie of lies) sockets[0]?.deliver(lie)
  await pass(100)
  const second = next()
  sockets[0]?.deliver(update(record(4)))
  expect(await second).toEqual(record(4))
  await end()
})

test('a lost socket is made again, and says what was missed', async () => {
  let newest = record(1)
  const { sockets, next, end } = subscribe({ [A]: serving(() => found(newest)) })
  expect(await next()).toEqual(record(1))
  newest = record(2)
  const second = next()
  sockets[0]?.close()
  expect(await second).toEqual(record(2))
  expect(sockets[1]?.received).toMatchObject([{ action: 'dht_subscribe', seq: 1 }])
  await end()
})

test('every server is followed; each version is told once', async () => {
  const { sockets, next, pass, end } = subscribe({ [A]: taken(found(record(1))), [B]: taken(found(record(2))) })
  const seen = await next()
  const [first, second] = sockets
  if ((seen as VerifiedRecord).seq === 1) await next()
  for (const socket of [second, first]) socket?.deliver(update(record(3)))
  expect(await next()).toEqual(record(3))
  await pass(100)
  const last = next()
  first?.deliver(update(record(4)))
  expect(await last).toEqual(record(4))
  await end()
})

test.each([
  ['does not know subscriptions', UNKNOWN],
  ['has no room for one more', { 'failure reason': 'too many', code: 202 }],
])('a server that %s is asked twice a minute', async (_, refusal) => {
  let newest = record(1)
  const reply: Server = serving(({ action }) => (action === 'dht_get' ? found(newest) : refusal))
  const { sockets, next, end } = subscribe({ [A]: reply })
  expect(await next()).toEqual(record(1))
  const began = Date.now()
  newest = record(2)
  expect(await next()).toEqual(record(2))
  expect(Date.now() - began).toBeGreaterThan(25_000)
  expect(Date.now() - began).toBeLessThan(35_000)
  await end()
  expect(actions(sockets[0])).not.toContain('unsubscribe')
})

test('a subscription is renewed; a socket that has died meanwhile is replaced', async () => {
  let alive = true
  const reply = serving(() => (alive ? found(record(1)) : undefined))
  const { sockets, next, pass, end } = subscribe({ [A]: reply })
  await next()
  await pass(61_000)
  expect(actions(sockets[0])).toEqual(['subscribe', 'subscribe'])
  alive = false
  await pass(95_000)
  alive = true
  await pass(35_000)
  expect(sockets.length).toBeGreaterThan(1)
  const second = next()
  sockets.at(-1)?.deliver(update(record(2)))
  expect(await second).toEqual(record(2))
  await end()
})

test('two on one target: the server is told when the last one leaves', async () => {
  const { gateway, sockets } = subscribe({ [A]: taken(found(record(1))) })
  const [one, two] = [gateway.subscribe(key.publicKey), gateway.subscribe(key.publicKey)]
  await outcome(Promise.all([one.next(), two.next()]))
  await outcome(one.return())
  expect(actions(sockets[0])).toEqual(['subscribe', 'subscribe'])
  await outcome(two.return())
  expect(actions(sockets[0])).toEqual(['subscribe', 'subscribe', 'unsubscribe'])
})

test('heard: each time a server says what is newest', async () => {
  const heard = vi.fn()
  const unchanged = { found: true, unchanged: true, seq: 2 }
  const reply = serving(({ seq }) => (seq === 2 ? unchanged : found(record(1))))
  const { sockets, next, pass, end } = subscribe({ [A]: reply }, { heard })
  await next()
  expect(heard).toHaveBeenCalledTimes(1)
  sockets[0]?.deliver(update(record(2)))
  await pass(100)
  expect(heard).toHaveBeenCalledTimes(2)
  await pass(61_000)
  expect(heard).toHaveBeenCalledTimes(3)
  await end()
})

test('an abort throws its reason; closing the gateway ends quietly', async () => {
  const control = new AbortController()
  const aborted = subscribe({ [A]: taken() }, { signal: control.signal })
  const first = aborted.next()
  await aborted.pass(100)
  control.abort(new Error('enough'))
  expect(await first).toEqual(new Error('enough'))
  expect(actions(aborted.sockets[0])).toEqual(['subscribe', 'unsubscribe'])

  const closed = subscribe({ [A]: taken() })
  const second = closed.next()
  await closed.pass(100)
  closed.gateway.close()
  expect(await second).toBe('end')
})

test('throws when there is nothing to be had from any server', async () => {
  expect(await subscribe({ [A]: serving(() => UNKNOWN), [B]: () => undefined }).next()).toBeInstanceOf(UnsupportedError)
  const refusal = serving(() => ({ 'failure reason': 'malformed', code: 203 }))
  expect(await subscribe({ [A]: refusal }).next()).toBeInstanceOf(ProxyError)
})

/** Of `spec/vectors/messages.json`. */
type Input = { following: { k: string; salt?: string }[]; seq: number; update: string }
type Reply = Case<object, { kind: string; record: RecordFields }>
const { updates = [], subscriptions = [] } = vectors<{
  updates?: Case<Input, { record: RecordFields }>[]
  subscriptions?: Reply[]
}>('messages')

test.each(updates)('update: $comment', async ({ input, result, expected }) => {
  // What the client has already is the record that another vector replies with.
  const reply = subscriptions.find(({ result, expected }) => result === 'valid' && expected.kind === 'record') as Reply
  const known = await verifyRecord(fromFields(reply.expected.record))
  const network = fakeNetwork({ [A]: taken() })
  const gateway = new Gateway([A], { WebSocket: network.WebSocket })
  const told: unknown[] = []
  for (const { k, salt = '' } of input.following) {
    const options = { salt: hex(salt), ...(salt === '' && { known }) }
    void gateway
      .subscribe(k, options)
      .next()
      .then(({ value }) => value && told.push(recordFields(value)))
  }
  await outcome(new Promise((done) => setTimeout(done, 50)))
  network.sockets[0]?.deliver(input.update)
  await outcome(new Promise((done) => setTimeout(done, 50)))
  expect(told).toEqual(result === 'valid' ? [expected.record] : [])
  gateway.close()
  await outcome(new Promise((done) => setTimeout(done, 50)))
})
