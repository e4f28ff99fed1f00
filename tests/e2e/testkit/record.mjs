// BEP 44 mutable items and BEP 46 pointers, made with Node's own cryptography: nothing here is shared with the server.

import bencode from 'bencode'
import { createHash, createPrivateKey, createPublicKey, randomBytes, sign, verify } from 'node:crypto'

const PKCS8_SEED = Buffer.from('302e020100300506032b657004220420', 'hex') // RFC 8410, section 7
const SPKI_KEY = Buffer.from('302a300506032b6570032100', 'hex') // RFC 8410, section 4

/** An Ed25519 key pair from a 32-byte seed. */
export class Key {
  constructor(seed = randomBytes(32)) {
    this.seed = seed
    this.secret = createPrivateKey({ key: Buffer.concat([PKCS8_SEED, seed]), format: 'der', type: 'pkcs8' })
    this.public = createPublicKey(this.secret).export({ format: 'der', type: 'spki' }).subarray(SPKI_KEY.length)
  }

  get hex() {
    return this.public.toString('hex')
  }

  get magnet() {
    return `magnet:?xs=urn:btpk:${this.hex}`
  }

  /** @param {Uint8Array} message */
  sign(message) {
    return sign(null, message, this.secret)
  }

  /**
   * A signed record.
   * @param {{ v: Buffer, seq: number, salt?: Buffer }} fields  `v` is the bencoded value
   */
  record({ v, seq, salt }) {
    const record = { k: this.public, v, seq, salt }
    return { ...record, sig: this.sign(signable(record)) }
  }
}

/**
 * BEP 44: what is signed, "bencoded … sequence number concatenated with the value", the salt first when there is one.
 * @param {{ v: Buffer, seq: number, salt?: Buffer | undefined }} record
 */
export function signable({ v, seq, salt }) {
  const prefix = salt?.length ? Buffer.concat([Buffer.from(`4:salt${salt.length}:`), salt]) : Buffer.alloc(0)
  return Buffer.concat([prefix, Buffer.from(`3:seqi${seq}e1:v`), v])
}

/**
 * @param {Buffer} signature
 * @param {Buffer} message
 * @param {Buffer} key  32 bytes
 */
export function verifies(signature, message, key) {
  return verify(
    null,
    message,
    createPublicKey({ key: Buffer.concat([SPKI_KEY, key]), format: 'der', type: 'spki' }),
    signature,
  )
}

/**
 * BEP 44: "SHA-1 hash of the public key (concatenated with the salt)".
 * @param {Buffer} key
 * @param {Buffer} [salt]
 */
export function target(key, salt = Buffer.alloc(0)) {
  return createHash('sha1').update(key).update(salt).digest()
}

/**
 * BEP 46: a dictionary whose `ih` is the info hash.
 * @param {string} infoHash  hex
 * @returns {Buffer}
 */
export function pointer(infoHash) {
  return Buffer.from(bencode.encode({ ih: Buffer.from(infoHash, 'hex') }))
}
