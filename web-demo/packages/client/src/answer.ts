/** What may be believed of a server's reply: only what verifies, and answers what was asked. */
import { fromHex, type Bytes } from './bytes.ts'
import { ForgedError, StaleError } from './errors.ts'
import { parseReply, type Json, type Reply, type Request } from './messages.ts'
import {
  itemTarget,
  RecordError,
  recordTarget,
  verifyRecord,
  type SignedRecord,
  type VerifiedRecord,
} from './record.ts'

/** A reply whose records have been verified. */
export type Answer = Reply<VerifiedRecord>

/**
 * Checks a reply: that a record verifies and is the one asked for by key and salt, that an immutable value hashes to its
 * target, that nothing is older than `floor` or than what the request says this page has.
 * @throws {ForgedError | StaleError}
 */
export async function checkReply(request: Request, json: Json, floor = -1): Promise<Answer> {
  const reply = parseReply(request, json)
  const target = requestTarget(request)
  if (reply.kind === 'value' && itemTarget(reply.v) !== target) throw notAsked()
  if (reply.kind === 'stored' && reply.stored.target !== target) throw notAsked()
  if (reply.kind === 'record') {
    const least = Math.max(floor, ('seq' in request && request.seq) || 0)
    return { ...reply, record: await checkRecord(reply.record, target, least) }
  }
  if (reply.kind === 'failure')
    return { ...reply, current: reply.current && (await checkRecord(reply.current, target)) }
  return reply
}

/** The target that a request is about; `null` for none. */
export function requestTarget(request: Request): string | null {
  if (request.action === 'dht_info') return null
  if ('target' in request) return request.target
  if (!('k' in request)) return itemTarget(fromHex(request.v) as Bytes)
  return recordTarget(request.k, fromHex(request.salt ?? '') as Bytes)
}

/**
 * Checks a record that somebody sent: that it verifies, is the one of `target`, and is not below `floor`.
 * @throws {ForgedError | StaleError}
 */
export async function checkRecord(record: SignedRecord, target: string | null, floor = -1): Promise<VerifiedRecord> {
  if (recordTarget(record.key, record.salt) !== target) throw notAsked()
  const verified = await verifyRecord(record).catch((error: Error) => {
    if (!(error instanceof RecordError)) throw error
    throw new ForgedError(`the server sent a record that does not verify: ${error.message}`, 'bad-signature')
  })
  if (verified.seq < floor) throw new StaleError(verified.seq, floor)
  return verified
}

function notAsked(): ForgedError {
  return new ForgedError('the server answered about something else', 'not-asked')
}
