import { importSeed, parseMagnet, signRecord, type VerifiedRecord } from 'swarmgate-client'
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

describe('checking for an update', () => {
  const check = (newest: VerifiedRecord, asked: boolean) =>
    after(...shown, { type: 'check-started' }, { type: 'checked', record: newest, at: 20, asked })

  test('a newer record waits for the reader; the page stays', () => {
    const state = check(two, false)
    expect(state).toMatchObject({ update: two, record: one, page, phase: 'shown', checking: false, checkedAt: 20 })
    expect(reduce(state, { type: 'update-dismissed' }).update).toBeNull()
    expect(reduce(state, { type: 'record-found', record: two, at: 30 })).toMatchObject({
      record: two,
      update: null,
      page,
    })
  })

  test('nothing new is said only to somebody who asked', () => {
    expect(check(one, true)).toMatchObject({ notice: 'up-to-date', update: null })
    expect(check(one, false)).toMatchObject({ notice: null, update: null })
  })

  test('a check that fails changes nothing else', () => {
    const failed = (asked: boolean) => after(...shown, { type: 'check-started' }, { type: 'check-failed', asked })
    expect(failed(true)).toMatchObject({ phase: 'shown', page, notice: 'check-failed', checking: false })
    expect(failed(false)).toEqual({ ...after(...shown), notice: null })
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
