/** The vectors of `spec/`, which the Rust tests read too. */
import { describe, expect, test } from 'vitest'

import { checkReply } from './answer.ts'
import { toHex } from './bytes.ts'
import { ForgedError, StaleError } from './errors.ts'
import { formatMagnet, parseMagnet, type Magnet } from './magnet.ts'
import { parseFrame, recordFields, type RecordFields, type Request } from './messages.ts'
import { checkValue, itemTarget, RecordError, recordTarget, signable, verifyRecord } from './record.ts'
import { fromFields, hex, vectors, type Case } from './testing.ts'

describe('items.json', () => {
  type Item = Partial<RecordFields> & { readonly v: string }
  type Expected = { readonly target: string; readonly signable?: string; readonly ih: string | null }
  const { items, targets } = vectors<{
    items: Case<Item, Expected>[]
    targets: Case<{ k: string; salt?: string }, { target: string }>[]
  }>('items')

  test.each(items)('$comment', async ({ input, result, expected, code }) => {
    const verify = async () => {
      if (input.k === undefined) return void checkValue(hex(input.v))
      return verifyRecord(fromFields(input as RecordFields))
    }
    if (result === 'invalid') {
      const error: unknown = await verify().catch((error: unknown) => error)
      expect(error).toBeInstanceOf(RecordError)
      expect((error as RecordError).code).toBe(code)
      return
    }
    const record = await verify()
    if (!record) return expect(itemTarget(hex(input.v))).toBe(expected.target)
    expect(record.target).toBe(expected.target)
    expect(record.infoHash).toBe(expected.ih)
    expect(toHex(signable(record.salt, record.seq, record.v))).toBe(expected.signable)
  })

  test.each(targets)('$comment', ({ input, expected }) => {
    expect(recordTarget(input.k, hex(input.salt ?? ''))).toBe(expected.target)
  })
})

describe('magnets.json', () => {
  type Expected = Omit<Magnet, 'salt' | 'infoHash' | 'key'> & { salt: string; ih: string | null; k: string | null }
  const { magnets } = vectors<{ magnets: Case<string, Expected>[] }>('magnets')
  const sentences: Record<string, RegExp> = {
    NotAMagnet: /^not a magnet link \(it must start with "magnet:\?"\)$/,
    TooLong: /^the magnet link is longer than 16384 characters$/,
    Malformed: /^the magnet link's (info hash|public key|salt) is malformed$/,
    Ambiguous: /^the magnet link names two different (info hashes|public keys|salts)$/,
    V2Only: /^the magnet link names a v2-only torrent, which is not supported$/,
    NoTarget: /^the magnet link names no torrent \(it has neither xt=urn:btih nor xs=urn:btpk\)$/,
  }

  test.each(magnets)('$comment', ({ input, result, expected, error }) => {
    if (result === 'invalid') return expect(() => parseMagnet(input)).toThrow(sentences[error] as RegExp)
    const magnet = parseMagnet(input)
    const { infoHash: ih, key: k, salt, ...rest } = magnet
    expect({ ih, k, salt: toHex(salt), ...rest }).toEqual(expected)
    expect(parseMagnet(formatMagnet(magnet))).toEqual(magnet)
    return undefined
  })
})

describe('messages.json', () => {
  type Input = { readonly request: Request & { readonly id: string }; readonly reply: string }
  type Expected = { readonly kind: string; readonly record?: object; readonly current?: object; readonly v?: string }
  type Cases = Case<Input, Expected>[]
  const { replies, subscriptions = [] } = vectors<{ replies: Cases; subscriptions?: Cases }>('messages')

  const read = async ({ request, reply }: Input) => {
    const json = parseFrame(reply)
    if (!json) return 'Malformed' // never reaches a request: the connection goes on waiting
    try {
      return await checkReply(request, json)
    } catch (error) {
      if (error instanceof StaleError) return 'Rollback'
      const faults = { malformed: 'Malformed', 'bad-signature': 'BadSignature', 'not-asked': 'NotAsked' }
      return faults[(error as ForgedError).fault]
    }
  }

  test.each([...replies, ...subscriptions])('reply: $comment', async ({ input, result, expected, error }) => {
    const answer = await read(input)
    if (result === 'invalid') return expect(answer).toBe(error)
    expect(answer).toMatchObject({ kind: expected.kind })
    if (typeof answer === 'string') return undefined
    const seen = {
      ...answer,
      ...(answer.kind === 'info' && answer.info.dht),
      ...(answer.kind === 'stored' && answer.stored),
      ...('record' in answer && { record: recordFields(answer.record) }),
      ...('current' in answer && { current: answer.current && recordFields(answer.current) }),
      ...('v' in answer && { v: toHex(answer.v) }),
    }
    return expect(seen).toMatchObject(expected)
  })
})
