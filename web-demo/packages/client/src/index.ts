/**
 * Records of mutable torrents (BEP 44/46) through any WebSocket tracker that speaks `dht_*`.
 *
 * ```ts
 * const gateway = new Gateway(['wss://host/announce'])
 * const record = await gateway.get(publicKey)
 * const key = await importSeed(createSeed())
 * const next = await signRecord(key, { infoHash, seq: 1 })
 * const { stored } = await gateway.put(next)
 * ```
 * @module
 */
export { fromHex, toHex, type Bytes } from './bytes.ts'
export * as bencode from './bencode.ts'
export type { SocketConstructor, SocketLike } from './connection.ts'
export { createSeed, importSeed, type SigningKey } from './ed25519.ts'
export {
  ConflictError,
  ConnectionError,
  ForgedError,
  ProxyError,
  StaleError,
  TimeoutError,
  UnsupportedError,
} from './errors.ts'
export { localFloor, memoryFloor, type Floor } from './floor.ts'
export { Gateway, type GatewayOptions, type GetOptions, type PutOptions, type SubscribeOptions } from './gateway.ts'
export type { Info, Mode, Stored } from './messages.ts'
export {
  MAX_SALT,
  MAX_SEQ,
  MAX_VALUE,
  RecordError,
  itemTarget,
  recordTarget,
  replaces,
  signable,
  signRecord,
  verifyRecord,
  type Content,
  type SignedRecord,
  type VerifiedRecord,
} from './record.ts'
