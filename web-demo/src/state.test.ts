import { importSeed, signRecord, type VerifiedRecord } from 'swarmgate-client'
import { parseMagnet } from 'swarmgate-client/magnet'
import { describe, expect, test } from 'vitest'

import { HOME } from './route.ts'
import { INITIAL, reduce, type Action, type State } from './state.ts'

const key = await importSeed(new Uint8Array(32).fill(3))
const magnet = parseMagnet(`magnet:?xs=urn:btpk:${key.publicKey}`)
const record = (seq: number): Promise<VerifiedRecord> => signRecord(key, { infoHash: '11'.repeat(20), seq })
const [one, two] = [await record(1), await record(2)]
const version = { infoHash: '11'.repeat(20), name: 'site', paths: ['index.md'] }
const page = { path: 'index.md', html: '', title: 'Hi' }

const opened: Action = { type: 'opened', magnet, place: HOME, scroll: null }
const shown: readonly Action[] = [
  opened,
  { type: 'record-found', record: one, at: 10 },
  { type: 'peers-awaited' },
  { type: 'swarm-changed', swarm: { peers: 1, progress: 0, speed: 0 } },
  { type: 'version-opened', version },
  { type: 'page-awaited' },
  { type: 'page-shown', page },
]
const after = (...actions: readonly Action[]): State => actions.reduce(reduce, INITIAL)

test('the way to a page, phase by phase', () => {
  const phases: string[] = []
  shown.reduce((state, action) => {
    const next = reduce(state, action)
    if (next.phase !== state.phase) phases.push(next.phase)
    return next
  }, INITIAL)
  expect(phases).toEqual(['finding-record', 'finding-peers', 'loading', 'shown'])
  expect(after(...shown)).toMatchObject({ record: one, checkedAt: 10, page, version, problem: null })
})

test('a plain torrent has no record to find', () => {
  const plain = parseMagnet(`magnet:?xt=urn:btih:${'11'.repeat(20)}`)
  expect(after({ type: 'opened', magnet: plain, place: HOME, scroll: null }).phase).toBe('finding-peers')
})

test('opening another site, or none, forgets everything of this one', () => {
  expect(after(...shown, { type: 'closed' })).toEqual(INITIAL)
  expect(after(...shown, opened)).toEqual(after(opened))
})

describe('updates', () => {
  const check = (newest: VerifiedRecord) =>
    after(...shown, { type: 'check-started' }, { type: 'checked', record: newest, at: 20 })
  const follow = (record: VerifiedRecord | null) => after(...shown, { type: 'followed', record, at: 20 })

  test.each([
    ['found by a check', check],
    ['told by the server', follow],
  ])('a newer record, %s, waits for the reader; the page stays', (_, come) => {
    const state = come(two)
    expect(state).toMatchObject({ update: two, record: one, page, phase: 'shown', checking: false, checkedAt: 20 })
    expect(reduce(state, { type: 'update-dismissed' }).update).toBeNull()
    expect(reduce(state, { type: 'record-found', record: two, at: 30 })).toMatchObject({
      record: two,
      update: null,
      page,
    })
  })

  test('nothing new is said only to somebody who asked', () => {
    expect(check(one)).toMatchObject({ notice: 'up-to-date', update: null })
    for (const record of [one, null]) {
      expect(follow(record)).toMatchObject({ notice: null, update: null, checkedAt: 20 })
    }
  })

  test('a check that finds what already waits does not call the page up to date', () => {
    const state = [{ type: 'check-started' }, { type: 'checked', record: one, at: 30 }] as const
    expect(state.reduce(reduce, follow(two))).toMatchObject({ update: two, notice: null })
  })

  test('a check that fails changes nothing else', () => {
    const failed = after(...shown, { type: 'check-started' }, { type: 'check-failed' })
    expect(failed).toMatchObject({ phase: 'shown', page, notice: 'check-failed', checking: false })
  })

  test('without a record, the first one that comes is offered', () => {
    const unchecked: Action = { type: 'record-skipped' }
    expect(after(opened, unchecked, { type: 'followed', record: one, at: 20 })).toMatchObject({ update: one })
  })
})

describe('problems', () => {
  const alone: Action = { type: 'failed', problem: { code: 'no-peers', detail: '' } }
  const peers = (count: number): Action => ({ type: 'swarm-changed', swarm: { peers: count, progress: 0, speed: 0 } })

  test('a peer that comes late ends the wait', () => {
    const waiting = after(opened, { type: 'peers-awaited' }, peers(0), alone)
    expect(waiting.phase).toBe('error')
    expect(reduce(waiting, peers(0)).phase).toBe('error')
    expect(reduce(waiting, peers(1))).toMatchObject({ phase: 'finding-peers', problem: null })
  })

  test('peers do not mend other problems', () => {
    const forged = after(opened, { type: 'failed', problem: { code: 'forged', detail: '' } })
    expect(reduce(forged, peers(3)).phase).toBe('error')
  })

  test('going to another page ends a problem of the last', () => {
    const missing = after(...shown, { type: 'failed', problem: { code: 'page-missing', detail: 'x.md' } })
    expect(reduce(missing, { type: 'page-shown', page })).toMatchObject({ phase: 'shown', problem: null })
  })
})
