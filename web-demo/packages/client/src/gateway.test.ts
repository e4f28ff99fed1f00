import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { encode } from './bencode.ts'
import { MAX_IN_FLIGHT } from './connection.ts'
import type { SigningKey } from './ed25519.ts'
import {
  ConflictError,
  ConnectionError,
  ForgedError,
  ProxyError,
  StaleError,
  TimeoutError,
  UnsupportedError,
} from './errors.ts'
import { localFloor, memoryFloor } from './floor.ts'
import { Gateway } from './gateway.ts'
import { recordFields, type Mode, type RecordFields } from './messages.ts'
import { signRecord, verifyRecord, type VerifiedRecord } from './record.ts'
import {
  author,
  fakeNetwork,
  fakeTime,
  found,
  fromFields,
  hex,
  INFO,
  outcome,
  serving,
  vectors,
  type Case,
  type Server,
} from './testing.ts'

const [A, B] = ['wss://a/announce', 'wss://b/announce']
const IH = '11'.repeat(20)

let key: SigningKey
let records: VerifiedRecord[]

beforeEach(async () => {
  fakeTime()
  ;({ key, records } = await author(IH, 4))
})
afterEach(() => vi.useRealTimers())

const record = (seq: number) => records[seq] as VerifiedRecord
const gatewayTo = (servers: Record<string, Server>, options = {}) => {
  const network = fakeNetwork(servers)
  return { ...network, gateway: new Gateway([A, B], { WebSocket: network.WebSocket, ...options }) }
}
describe('get', () => {
  test('asks once and verifies', async () => {
    const { gateway, sockets } = gatewayTo({ [A]: serving(() => found(record(2))) })
    expect(await outcome(gateway.get(key.publicKey.toUpperCase()))).toEqual(record(2))
    expect(sockets[0]?.received).toEqual([{ action: 'dht_get', id: expect.any(String), k: key.publicKey }])
    expect(sockets).toHaveLength(1)
  })

  test.each<[string, () => object, typeof ForgedError]>([
    ['a signature by nobody', () => ({ ...found(record(1)), seq: 2 }), ForgedError],
    ["another key's record", () => ({ ...found(record(1)), k: '77'.repeat(32) }), ForgedError],
    ['junk', () => ({ found: true, v: 1 }), ForgedError],
    ['"unchanged" to a page that has nothing', () => ({ found: true, unchanged: true, seq: 1 }), ForgedError],
  ])('refuses %s, and asks the next server', async (_, lie, kind) => {
    const alone = gatewayTo({ [A]: serving(lie), [B]: serving(lie) })
    expect(await outcome(alone.gateway.get(key.publicKey))).toBeInstanceOf(kind)
    const saved = gatewayTo({ [A]: serving(lie), [B]: serving(() => found(record(1))) })
    expect(await outcome(saved.gateway.get(key.publicKey))).toEqual(record(1))
  })

  test('never goes back below what it has seen, in this page or before', async () => {
    let newest = record(3)
    const floor = memoryFloor()
    const servers = { [A]: serving(() => found(newest)), [B]: serving(() => found(newest)) }
    const { gateway } = gatewayTo(servers, { floor })
    expect(await outcome(gateway.get(key.publicKey))).toEqual(record(3))
    newest = record(2)
    expect(await outcome(gateway.get(key.publicKey))).toEqual(new StaleError(2, 3))
    expect(await outcome(gatewayTo(servers, { floor }).gateway.get(key.publicKey))).toBeInstanceOf(StaleError)
    expect(await outcome(gatewayTo(servers).gateway.get(key.publicKey, { minSeq: 3 }))).toEqual(new StaleError(2, 3))
    expect(await outcome(gatewayTo(servers).gateway.get(key.publicKey, { minSeq: 2 }))).toEqual(record(2))
  })

  test('with a known record only a newer one is sent', async () => {
    const { gateway, sockets } = gatewayTo({
      [A]: serving(({ seq }) => (seq === 1 ? found(record(2)) : { found: true, unchanged: true, seq: 2 })),
    })
    expect(await outcome(gateway.get(key.publicKey, { known: record(1), maxAge: 0 }))).toEqual(record(2))
    expect(sockets[0]?.received[0]).toMatchObject({ seq: 1, max_age: 0 })
    expect(await outcome(gateway.get(key.publicKey, { known: record(2) }))).toBe(record(2))
  })

  test('of two values with one number, the larger stays', async () => {
    const larger = await signRecord(key, { infoHash: '22'.repeat(20), seq: 2 })
    const { gateway } = gatewayTo({ [A]: serving(() => found(record(2))) })
    expect(await outcome(gateway.get(key.publicKey, { known: larger }))).toBe(larger)
    const other = gatewayTo({ [A]: serving(() => found(larger)) })
    expect(await outcome(other.gateway.get(key.publicKey, { known: record(2) }))).toEqual(larger)
  })

  test('"not found" is worth a second opinion, and null in the end', async () => {
    const absent = serving(() => ({ found: false }))
    expect(
      await outcome(gatewayTo({ [A]: absent, [B]: serving(() => found(record(1))) }).gateway.get(key.publicKey)),
    ).toEqual(record(1))
    expect(await outcome(gatewayTo({ [A]: absent }).gateway.get(key.publicKey))).toBeNull()
  })

  test('salt goes with the key', async () => {
    const salt = Uint8Array.of(0x6e)
    const salted = await signRecord(key, { infoHash: IH, seq: 1, salt })
    const { gateway, sockets } = gatewayTo({ [A]: serving(() => found(salted)), [B]: serving(() => found(salted)) })
    expect(await outcome(gateway.get(key.publicKey, { salt }))).toEqual(salted)
    expect(sockets[0]?.received[0]).toMatchObject({ salt: '6e' })
    expect(await outcome(gateway.get(key.publicKey))).toBeInstanceOf(ForgedError)
  })

  test('a key of the wrong length never leaves the page', async () => {
    const { gateway, sockets } = gatewayTo({})
    await expect(gateway.get('abcd')).rejects.toThrow('a public key must be 32 bytes (64 hexadecimal digits)')
    expect(sockets).toHaveLength(0)
  })
})

describe('connections', () => {
  test('are opened again after they close', async () => {
    const { gateway, sockets } = gatewayTo({ [A]: serving(() => found(record(1))) })
    await outcome(gateway.get(key.publicKey))
    sockets[0]?.close()
    expect(await outcome(gateway.get(key.publicKey))).toEqual(record(1))
    expect(sockets.map(({ url }) => url)).toEqual([A, A])
  })

  test('a request survives a server that comes back within its time', async () => {
    const servers: Record<string, Server> = {}
    const { gateway } = gatewayTo(servers)
    const asked = gateway.get(key.publicKey)
    await vi.advanceTimersByTimeAsync(9_000)
    servers[B] = serving(() => found(record(1)))
    expect(await outcome(asked)).toEqual(record(1))
  })

  test('nobody there: one error, in time', async () => {
    const { gateway } = gatewayTo({})
    const asked = gateway.get(key.publicKey)
    const settled = vi.fn()
    asked.catch(settled)
    await vi.advanceTimersByTimeAsync(9_500)
    expect(settled).not.toHaveBeenCalled()
    expect(await outcome(asked, 6_000)).toBeInstanceOf(ConnectionError)
  })

  test('a silent lookup times out, and late replies harm nobody', async () => {
    const { gateway, sockets } = gatewayTo({ [A]: serving(() => undefined), [B]: serving(() => undefined) })
    expect(await outcome(gateway.get(key.publicKey))).toBeInstanceOf(TimeoutError)
    const [asked] = sockets[0]?.received ?? []
    sockets[0]?.deliver({ ...found(record(1)), action: 'dht_get', id: asked?.['id'] })
  })

  test('a server that hangs leaves time for the next', async () => {
    const { gateway } = gatewayTo({ [A]: serving(() => undefined), [B]: serving(() => found(record(1))) })
    expect(await outcome(gateway.get(key.publicKey))).toEqual(record(1))
    // From then on the one that answered comes first.
    const again = gateway.get(key.publicKey)
    expect(await outcome(again, 10)).toEqual(record(1))
  })

  test.each<[string, Server]>([
    ['answers with an error', () => '{"failure reason":"invalid action in WS request: dht_get"}'],
    ['says nothing', () => undefined],
    ['closes the connection', (_, socket) => socket.close()],
  ])('a tracker that %s does not know dht_*', async (_, tracker) => {
    const { gateway } = gatewayTo({ [A]: tracker, [B]: tracker })
    expect(await outcome(gateway.get(key.publicKey), 12_000)).toBeInstanceOf(UnsupportedError)
    expect(await outcome(gateway.get(key.publicKey), 12_000)).toBeInstanceOf(UnsupportedError)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('an abort ends the call at once with its own reason', async () => {
    const { gateway } = gatewayTo({ [A]: serving(() => undefined) })
    const control = new AbortController()
    const asked = gateway.get(key.publicKey, { signal: control.signal }).catch((error: unknown) => error)
    await vi.advanceTimersByTimeAsync(100)
    control.abort('enough')
    expect(await asked).toBe('enough')
    await expect(gateway.get(key.publicKey, { signal: control.signal })).rejects.toBe('enough')
    expect(vi.getTimerCount()).toBe(0)
  })

  test("junk and strangers' replies are passed over", async () => {
    const { gateway } = gatewayTo({
      [A]: (request, socket) => {
        for (const junk of ['', 'null', '[]', '{', '{"action":"dht_get","id":"999","found":false}'])
          socket.deliver(junk)
        return serving(() => found(record(1)))(request, socket)
      },
    })
    expect(await outcome(gateway.get(key.publicKey))).toEqual(record(1))
  })

  test('more requests than a server takes at once wait for their turn', async () => {
    const held: (() => void)[] = []
    const { gateway, sockets } = gatewayTo({
      [A]: (request, socket) => {
        if (request['action'] === 'dht_info') return INFO
        held.push(() => socket.deliver({ action: 'dht_get', id: request['id'], ...found(record(1)) }))
        return undefined
      },
    })
    const asked = Promise.all(Array.from({ length: 3 * MAX_IN_FLIGHT }, () => gateway.get(key.publicKey)))
    await vi.advanceTimersByTimeAsync(100)
    expect(sockets[0]?.received).toHaveLength(MAX_IN_FLIGHT)
    const answering = setInterval(() => held.splice(0).forEach((answer) => answer()))
    expect(await outcome(asked)).toEqual(Array(3 * MAX_IN_FLIGHT).fill(record(1)))
    clearInterval(answering)
    expect(sockets).toHaveLength(1)
  })

  test('an address that swallows connections is given up for the next server', async () => {
    const { WebSocket: Reachable } = fakeNetwork({ [B]: serving(() => found(record(1))) })
    const WebSocket = class {
      constructor(url: string) {
        return url === B ? new Reachable(url) : { readyState: 0, send() {}, close() {}, addEventListener() {} }
      }
    } as never
    const gateway = new Gateway([A, B], { WebSocket })
    expect(await outcome(gateway.get(key.publicKey), 10_000)).toEqual(record(1))
    expect(vi.getTimerCount()).toBe(0)
  })

  test('a platform without WebSocket is told what to do', () => {
    vi.stubGlobal('WebSocket', undefined)
    expect(() => new Gateway([A])).toThrow('new Gateway(servers, { WebSocket })')
    vi.unstubAllGlobals()
  })

  test('an address that no socket takes is an error like any other', async () => {
    const WebSocket = class {
      constructor() {
        throw new SyntaxError('no')
      }
    } as never
    expect(await outcome(new Gateway(['nonsense'], { WebSocket }).get(key.publicKey))).toBeInstanceOf(ConnectionError)
    expect(() => new Gateway([])).toThrow('at least one server')
  })

  test('closing fails what is in flight and leaves no timer', async () => {
    const { gateway } = gatewayTo({ [A]: serving(() => undefined) }, { timeout: 1_000 })
    const asked = outcome(gateway.get(key.publicKey), 0)
    await vi.advanceTimersByTimeAsync(10)
    gateway.close()
    await vi.advanceTimersByTimeAsync(2_000)
    expect(await asked).toBeInstanceOf(Error)
    gateway.close()
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('put', () => {
  const stored = { target: '', seq: 2, stored: 8 }

  test('sends the record as it is', async () => {
    const { gateway, sockets } = gatewayTo({ [A]: serving(() => ({ ...stored, target: record(2).target })) })
    expect(await outcome(gateway.put(record(2), { cas: 1 }))).toMatchObject({ stored: 8, conflict: false })
    expect(sockets[0]?.received[0]).toEqual({
      action: 'dht_put',
      id: expect.any(String),
      cas: 1,
      ...recordFields(record(2)),
    })
  })

  test.each([301, 302])('%i is a conflict that carries the version that stands', async (code) => {
    const refuse = () => ({ 'failure reason': 'a newer one stands', code, current: recordFields(record(3)) })
    const { gateway } = gatewayTo({ [A]: serving(refuse) })
    const error = await outcome(gateway.put(record(2), { cas: 1 }))
    expect(error).toBeInstanceOf(ConflictError)
    expect(error).toMatchObject({ code, message: 'a newer one stands', current: record(3) })
    // Having been shown 3, nothing older is signed over it by accident.
    expect(await outcome(gateway.put(record(2)))).toEqual(new StaleError(2, 3))
  })

  test('a forged conflict is no conflict', async () => {
    const refuse = () => ({ 'failure reason': 'x', code: 302, current: { ...recordFields(record(2)), seq: 3 } })
    const { gateway } = gatewayTo({ [A]: serving(refuse), [B]: serving(refuse) })
    expect(await outcome(gateway.put(record(2)))).toBeInstanceOf(ForgedError)
  })

  test.each([203, 205, 206, 207])('%i is final', async (code) => {
    const { gateway, sockets } = gatewayTo({ [A]: serving(() => ({ 'failure reason': 'no', code })) })
    const error = await outcome(gateway.put(record(2)))
    expect(error).toBeInstanceOf(ProxyError)
    expect(error).toMatchObject({ code, current: null })
    expect(sockets).toHaveLength(1)
  })

  test('a server that cannot now is passed over for one that can', async () => {
    const busy = serving(() => ({ 'failure reason': 'too busy', code: 202 }))
    const { gateway } = gatewayTo({ [A]: busy, [B]: serving(() => ({ ...stored, target: record(2).target })) })
    expect(await outcome(gateway.put(record(2)))).toMatchObject({ stored: 8 })
    expect(await outcome(gatewayTo({ [A]: busy, [B]: busy }).gateway.put(record(2)))).toMatchObject({ code: 202 })
  })

  test('an action the server does not know is not supported', async () => {
    const { gateway } = gatewayTo(
      { [A]: serving(() => ({ 'failure reason': 'unknown action', code: 204 })) },
      { timeout: 2_000 },
    )
    expect(await outcome(gateway.put(record(2)))).toBeInstanceOf(UnsupportedError)
  })
})

test('immutable values are checked against their target', async () => {
  const v = encode('Hello World!')
  const target = 'e5f96f6f38320f0f33959cb4d3d656452117aadb'
  const { gateway } = gatewayTo({
    [A]: serving(({ action }) =>
      action === 'dht_put' ? { target, stored: 1 } : { found: true, target, v: '31323a48656c6c6f20576f726c6421' },
    ),
    [B]: serving(() => ({ found: false })),
  })
  expect(await outcome(gateway.putValue(v))).toMatchObject({ stored: 1 })
  expect(await outcome(gateway.getValue(target.toUpperCase()))).toEqual(v)
  await expect(gateway.putValue(Uint8Array.of(1))).rejects.toThrow('the value is not canonical bencode')
  const lying = gatewayTo({
    [A]: serving(() => ({ found: true, target, v: '693165' })),
    [B]: serving(() => ({ found: false })),
  })
  expect(await outcome(lying.gateway.getValue(target))).toBeInstanceOf(ForgedError)
})

test('info', async () => {
  const { gateway } = gatewayTo({ [A]: serving(() => undefined) })
  expect(await outcome(gateway.info())).toEqual({ ...INFO, webSeeds: null })
})

test('where a web seed is, or none, and never an error', async () => {
  const said =
    (more: object): Server =>
    (request) =>
      request['action'] === 'dht_info' ? { ...INFO, ...more } : undefined
  const table: [Server, string | null][] = [
    [said({ web_seeds: '/seeds/' }), `${A.replace(/^ws(.*?)\/announce$/, 'http$1')}/seeds/${IH}/`],
    [said({ web_seeds: '//elsewhere/' }), null],
    [said({ web_seeds: 7 }), null],
    [said({}), null],
    [() => undefined, null],
    [(_, socket) => socket.close(), null],
  ]
  for (const [server, expected] of table) {
    const { gateway } = gatewayTo({ [A]: server })
    expect(await outcome(gateway.webSeed(IH))).toBe(expected)
  }
})

/** What this client writes is what `spec/vectors/messages.json` says a server understands. */
describe('requests of messages.json', () => {
  type Expected = Record<string, unknown> & {
    action: string
    k?: string
    salt?: string
    seq?: number
    max_age?: number
    min_seq?: number
    mode?: Mode
  }
  const { requests } = vectors<{ requests: Case<string, Expected>[] }>('messages')
  const plain = requests.filter(
    ({ result, expected }) => result === 'valid' && !['dht_info', 'dht_unsubscribe'].includes(expected.action),
  )

  test.each(plain)('$comment', async ({ expected }) => {
    const { gateway, sockets } = gatewayTo({ [A]: serving(() => undefined) }, { timeout: 100 })
    const { action, k, salt, max_age: maxAge, min_seq: minSeq, mode, target, v, cas } = expected
    if (action === 'dht_put' && k !== undefined) {
      const item = await verifyRecord(fromFields(expected as unknown as RecordFields))
      await outcome(gateway.put(item, cas === undefined ? {} : { cas: cas as number }))
    } else if (action === 'dht_put') {
      await outcome(gateway.putValue(hex(v as string)))
    } else if (target !== undefined) {
      await outcome(gateway.getValue(target as string))
    } else {
      const options = {
        ...(salt !== undefined && { salt: hex(salt) }),
        ...(maxAge !== undefined && { maxAge }),
        ...(minSeq !== undefined && { minSeq }),
        ...(mode && { mode }),
      }
      if (action === 'dht_get') await outcome(gateway.get(k as string, options))
      else {
        const told = gateway.subscribe(k as string, options).next()
        await vi.waitFor(() => expect(sockets[0]?.received).toHaveLength(1))
        gateway.close()
        await outcome(told)
      }
      // `seq` is that of a record at hand, which the vectors of requests do not bring.
      delete expected['seq']
    }
    return expect(sockets[0]?.received[0]).toEqual({ ...expected, id: expect.any(String) })
  })
})

describe('localFloor', () => {
  const storage = () => {
    const items = new Map<string, string>()
    return {
      items,
      getItem: (k: string) => items.get(k) ?? null,
      setItem: (k: string, v: string) => void items.set(k, v),
    }
  }

  test('remembers the highest, across pages', () => {
    const local = storage()
    const floor = localFloor(local)
    expect(floor.read('t')).toBe(-1)
    void floor.raise('t', 5)
    void floor.raise('t', 4)
    expect(localFloor(local).read('t')).toBe(5)
  })

  test('reads junk as nothing, and lives without storage', () => {
    const local = storage()
    local.items.set('swarmgate:seq:t', 'junk')
    expect(localFloor(local).read('t')).toBe(-1)
    const refuse = () => {
      throw new Error('SecurityError')
    }
    const floor = localFloor({ getItem: refuse, setItem: refuse })
    void floor.raise('t', 2)
    expect(floor.read('t')).toBe(2)
  })
})
