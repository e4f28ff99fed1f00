/** The whole state of the reader, and the named actions that change it. Pure: nothing here waits, fetches or draws. */
import { replaces, type VerifiedRecord } from 'swarmgate-client'
import type { Magnet } from 'swarmgate-client/magnet'

import { HOME, type Place } from './route.ts'

/** How far opening a site has come. The name is on the document's root as `data-state`. */
export type Phase = 'start' | 'finding-record' | 'finding-peers' | 'loading' | 'shown' | 'error'

/** What went wrong, as a code that `text.ts` has a sentence for; `detail` completes the sentence. */
export interface Problem {
  readonly code:
    | 'bad-link'
    | 'insecure'
    | 'no-webrtc'
    | 'no-server'
    | 'unsupported'
    | 'refused'
    | 'not-found'
    | 'forged'
    | 'stale'
    | 'no-torrent'
    | 'no-peers'
    | 'torrent'
    | 'no-page'
    | 'page-missing'
    | 'page-too-large'
    | 'unexpected'
  readonly detail: string
}

/** A page of the site, rendered but not yet sanitised. */
export interface Page {
  readonly path: string
  readonly html: string
  readonly title: string | null
}

/** The version on display: which torrent it is, its name and its files. */
export interface Version {
  readonly infoHash: string
  readonly name: string
  readonly paths: readonly string[]
}

/** What the swarm is doing. */
export interface Swarm {
  readonly peers: number
  /** Of the whole torrent, 0 to 1. */
  readonly progress: number
  /** Bytes a second, coming in. */
  readonly speed: number
}

/** Something worth saying that stops nothing. */
export type Notice = 'up-to-date' | 'check-failed' | 'unchecked' | 'copied' | 'not-copied' | 'not-saved'

export interface State {
  readonly phase: Phase
  readonly magnet: Magnet | null
  readonly place: Place
  /** Where the reader was on this page before, for going back; `null` when it is entered anew. */
  readonly scroll: number | null
  /** The record on display, or being opened; `null` for a plain torrent. */
  readonly record: VerifiedRecord | null
  /** When a server last said that `record` is the newest, milliseconds since 1970. */
  readonly checkedAt: number | null
  /** A check is on its way. */
  readonly checking: boolean
  /** A newer record, waiting for the reader to say so. */
  readonly update: VerifiedRecord | null
  readonly swarm: Swarm
  readonly version: Version | null
  readonly page: Page | null
  readonly problem: Problem | null
  readonly notice: Notice | null
}

export const INITIAL: State = {
  phase: 'start',
  magnet: null,
  place: HOME,
  scroll: null,
  record: null,
  checkedAt: null,
  checking: false,
  update: null,
  swarm: { peers: 0, progress: 0, speed: 0 },
  version: null,
  page: null,
  problem: null,
  notice: null,
}

export type Action =
  /** Back to the start page. */
  | { readonly type: 'closed' }
  /** Another site is being opened. */
  | { readonly type: 'opened'; readonly magnet: Magnet; readonly place: Place; readonly scroll: number | null }
  /** Another place in the same site. */
  | { readonly type: 'went'; readonly place: Place; readonly scroll: number | null }
  | { readonly type: 'record-found'; readonly record: VerifiedRecord; readonly at: number }
  /** There is no record to be had; the version that the link itself names is opened. */
  | { readonly type: 'record-skipped' }
  | { readonly type: 'peers-awaited' }
  | { readonly type: 'swarm-changed'; readonly swarm: Swarm }
  | { readonly type: 'version-opened'; readonly version: Version }
  | { readonly type: 'page-awaited' }
  | { readonly type: 'page-shown'; readonly page: Page }
  | { readonly type: 'failed'; readonly problem: Problem }
  | { readonly type: 'check-started' }
  | { readonly type: 'checked'; readonly record: VerifiedRecord; readonly at: number }
  | { readonly type: 'check-failed' }
  /** A server that is followed has said what is newest; `null`: what is on display. */
  | { readonly type: 'followed'; readonly record: VerifiedRecord | null; readonly at: number }
  | { readonly type: 'update-dismissed' }
  | { readonly type: 'noticed'; readonly notice: Notice }

export function reduce(state: State, action: Action): State {
  switch (action.type) {
    case 'closed':
      return INITIAL
    case 'opened': {
      const phase = action.magnet.key === null ? 'finding-peers' : 'finding-record'
      return { ...INITIAL, phase, magnet: action.magnet, place: action.place, scroll: action.scroll }
    }
    case 'went':
      return { ...state, place: action.place, scroll: action.scroll }
    case 'record-found':
      return { ...state, record: action.record, checkedAt: action.at, update: null, checking: false, notice: null }
    case 'record-skipped':
      return { ...state, notice: 'unchecked' }
    case 'peers-awaited':
      return { ...state, phase: 'finding-peers', problem: null, swarm: INITIAL.swarm }
    case 'swarm-changed':
      return swarmChanged({ ...state, swarm: action.swarm })
    case 'version-opened':
      return { ...state, phase: 'loading', problem: null, version: action.version }
    case 'page-awaited':
      return { ...state, phase: 'loading', problem: null }
    case 'page-shown':
      return { ...state, phase: 'shown', problem: null, page: action.page }
    case 'failed':
      return { ...state, phase: 'error', problem: action.problem, checking: false }
    case 'check-started':
      return { ...state, checking: true, notice: null }
    case 'checked':
      return checked({ ...state, checking: false, checkedAt: action.at }, action.record)
    case 'check-failed':
      return { ...state, checking: false, notice: 'check-failed' }
    case 'followed':
      return offered({ ...state, checkedAt: action.at }, action.record)
    case 'update-dismissed':
      return { ...state, update: null }
    case 'noticed':
      return { ...state, notice: action.notice }
  }
}

/** Peers that turn up late end the wait that was reported as a problem. */
function swarmChanged(state: State): State {
  if (state.problem?.code !== 'no-peers' || state.swarm.peers === 0) return state
  return { ...state, phase: state.version ? 'loading' : 'finding-peers', problem: null }
}

function checked(state: State, record: VerifiedRecord): State {
  const next = offered(state, record)
  return next.update ? next : { ...next, notice: 'up-to-date' }
}

/** A newer record waits for the reader to say so. */
function offered(state: State, record: VerifiedRecord | null): State {
  const stands = state.update ?? state.record
  return record && (!stands || replaces(record, stands)) ? { ...state, update: record } : state
}
