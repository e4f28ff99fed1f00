// Writes the test vectors beside this file; with --check it only says whether they are up to date.
//
// Keys are made from fixed seeds and Ed25519 is deterministic, so every run writes the same bytes. Expected results of
// links and messages are written by hand below; targets, signable bytes and signatures come from Node's cryptography.

import { createHash, createPrivateKey, createPublicKey, sign, verify } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'

// --- bytes, bencode, keys, items ------------------------------------------------------------------------------------

const hex = bytes => Buffer.from(bytes).toString('hex')
const unhex = text => Buffer.from(text, 'hex')
const ascii = text => Buffer.from(text, 'latin1')
const sha1 = (...parts) => createHash('sha1').update(Buffer.concat(parts)).digest()
const string = bytes => Buffer.concat([ascii(`${bytes.length}:`), bytes])

/** A key pair from a seed of 32 equal bytes. */
function keyPair (fill) {
  const pkcs8 = Buffer.concat([unhex('302e020100300506032b657004220420'), Buffer.alloc(32, fill)])
  const privateKey = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' })
  const k = createPublicKey(privateKey).export({ format: 'der', type: 'spki' }).subarray(-32)
  return { k: hex(k), sign: message => sign(null, message, privateKey) }
}

function signable ({ salt = '', seq, v }) {
  const prefix = salt === '' ? ascii('') : Buffer.concat([ascii('4:salt'), string(unhex(salt))])
  return Buffer.concat([prefix, ascii(`3:seqi${seq}e1:v`), unhex(v)])
}

const target = ({ k, salt = '', v }) => hex(k === undefined ? sha1(unhex(v)) : sha1(unhex(k), unhex(salt)))

/** A record signed by `pair`, in the order its fields are written. An empty salt is left out. */
function record (pair, { salt = '', seq, v }) {
  return { k: pair.k, ...(salt === '' ? {} : { salt }), seq, v, sig: hex(pair.sign(signable({ salt, seq, v }))) }
}

/** Node's opinion of a signature, as a second one beside the implementations under test. */
function verifies (item) {
  const spki = Buffer.concat([unhex('302a300506032b6570032100'), unhex(item.k)])
  const key = createPublicKey({ key: spki, format: 'der', type: 'spki' })
  return verify(null, signable(item), key, unhex(item.sig))
}

const alice = keyPair(1)
const bob = keyPair(2)
const hello = hex(string(ascii('Hello World!')))
const pointer = ih => hex(Buffer.concat([ascii('d2:ih20:'), unhex(ih), ascii('e')]))
const ih1 = '11'.repeat(20)

/** The string value whose bencoding is `length` bytes long, for lengths from 103 to 1003: the count has three digits. */
function valueOf (length) {
  return hex(string(Buffer.alloc(length - '000:'.length, 'x')))
}

/** The signature with its scalar S replaced by S + L: the same point equation, another encoding. */
function malleable (sig) {
  const order = 2n ** 252n + 27742317777372353535851937790883648493n
  const bytes = unhex(sig)
  const s = BigInt('0x' + hex(Buffer.from(bytes.subarray(32)).reverse())) + order
  return hex(bytes.subarray(0, 32)) + hex(unhex(s.toString(16).padStart(64, '0')).reverse())
}

function flip (text, index) {
  const bytes = unhex(text)
  bytes[index] ^= 1
  return hex(bytes)
}

const valid = (comment, flags, input, expected) => ({ comment, flags, input, result: 'valid', expected })
const invalid = (comment, flags, input, failure) => ({ comment, flags, input, result: 'invalid', ...failure })

// --- items.json -----------------------------------------------------------------------------------------------------

function items () {
  const bep44Key = '77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548'
  const bep46Key = '8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e'
  const good = (comment, flags, input, ih = null) => {
    if (input.k !== undefined && !verifies(input)) throw new Error(`signature: ${comment}`)
    const expected = { target: target(input), ...(input.k === undefined ? {} : { signable: hex(signable(input)) }), ih }
    return valid(comment, flags, input, expected)
  }
  const bad = (comment, flags, code, input) => invalid(comment, flags, input, { code })
  const one = (v, seq = 1, salt = '') => record(alice, { salt, seq, v })
  const base = one(hello)
  const salted = one(hello, 1, hex(ascii('n')))
  const identity = '01' + '00'.repeat(31)

  const cases = [
    good('BEP 44 test 1 (mutable)', ['Bep44'], {
      k: bep44Key,
      seq: 1,
      v: hello,
      sig: '305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01'
    }),
    good('BEP 44 test 2 (mutable with salt)', ['Bep44', 'Salt'], {
      k: bep44Key,
      salt: hex(ascii('foobar')),
      seq: 1,
      v: hello,
      sig: '6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08'
    }),
    good('BEP 44 test 3 (immutable)', ['Bep44', 'Immutable'], { v: hello }),

    good('a pointer to a torrent', ['Bep46'], one(pointer(ih1)), ih1),
    good('a pointer with salt', ['Bep46', 'Salt'], one(pointer(ih1), 7, hex(ascii('blog'))), ih1),
    good('a pointer with other keys beside it', ['Bep46'],
      one(hex(Buffer.concat([ascii('d1:ai1e2:ih20:'), unhex(ih1), ascii('5:title2:hie')]))), ih1),
    good('ih of 19 bytes points nowhere', ['Bep46'],
      one(hex(Buffer.concat([ascii('d2:ih19:'), Buffer.alloc(19, 0x11), ascii('e')])))),
    good('ih that is an integer points nowhere', ['Bep46'], one(hex(ascii('d2:ihi1ee')))),

    good('an integer as value', ['Value'], one(hex(ascii('i-42e')))),
    good('an integer of more than 64 bits as value', ['Value'], one(hex(ascii('i123456789012345678901234567890e')))),
    good('an empty string as value', ['Value'], one(hex(ascii('0:')))),
    good('an empty list as value', ['Value'], one(hex(ascii('le')))),
    good('an empty dictionary as value', ['Value'], one(hex(ascii('de')))),
    good('a nested value', ['Value'], one(hex(ascii('d1:ad1:bl1:ci0eeee')))),
    good('keys that are bytes sort as bytes', ['Value'],
      one(hex(Buffer.concat([ascii('d1:zi1e1:'), Buffer.from([0x80]), ascii('i2ee')])))),
    good('a value nested 48 deep', ['Value', 'Limit'], one(hex(ascii('l'.repeat(48) + 'i0e' + 'e'.repeat(48))))),
    good('a value of 1000 bytes', ['Limit'], one(valueOf(1000))),
    good('an immutable value of 1000 bytes', ['Limit', 'Immutable'], { v: valueOf(1000) }),
    good('a salt of 64 bytes', ['Limit', 'Salt'], one(hello, 1, 'ab'.repeat(64))),
    good('a salt of zero bytes', ['Salt'], one(hello, 1, '00')),
    good('an empty salt is no salt', ['Salt'], { ...base, salt: '' }),
    good('seq 0', ['Limit', 'Seq'], one(hello, 0)),
    good('seq 2^53-1', ['Limit', 'Seq'], one(hello, Number.MAX_SAFE_INTEGER)),

    bad('first byte of the signature changed', ['Forged'], 206, { ...base, sig: flip(base.sig, 0) }),
    bad('last byte of the signature changed', ['Forged'], 206, { ...base, sig: flip(base.sig, 63) }),
    bad('a signature of zeros', ['Forged'], 206, { ...base, sig: '00'.repeat(64) }),
    bad('the value changed after signing', ['Forged'], 206, { ...base, v: hex(string(ascii('Hello world!'))) }),
    bad('seq changed after signing', ['Forged', 'Seq'], 206, { ...base, seq: 2 }),
    bad('salt added after signing', ['Forged', 'Salt'], 206, { ...base, salt: hex(ascii('n')) }),
    bad('salt removed after signing', ['Forged', 'Salt'], 206, (({ salt, ...rest }) => rest)(salted)),
    bad('salt changed after signing', ['Forged', 'Salt'], 206, { ...salted, salt: hex(ascii('m')) }),
    bad('signed by another key', ['WrongKey'], 206, { ...base, k: bob.k }),
    bad('a key that is no point of the curve', ['WrongKey'], 206, { ...base, k: '02' + '00'.repeat(31) }),
    bad('the key of order 1, whose signatures anyone can make', ['SmallOrderKey'], 206,
      { ...base, k: identity, sig: identity + '00'.repeat(32) }),
    bad('the key of order 2', ['SmallOrderKey'], 206,
      { ...base, k: 'ec' + 'ff'.repeat(30) + '7f', sig: identity + '00'.repeat(32) }),
    bad('the key of order 1 in a non-canonical encoding', ['SmallOrderKey'], 206,
      { ...base, k: 'ee' + 'ff'.repeat(30) + '7f', sig: identity + '00'.repeat(32) }),
    bad('a signature whose scalar is not below the group order', ['Malleable'], 206,
      { ...base, sig: malleable(base.sig) }),

    bad('a value of 1001 bytes', ['Limit'], 205, one(valueOf(1001))),
    bad('an immutable value of 1001 bytes', ['Limit', 'Immutable'], 205, { v: valueOf(1001) }),
    bad('a salt of 65 bytes', ['Limit', 'Salt'], 207, one(hello, 1, 'ab'.repeat(65))),
    bad('seq -1', ['Limit', 'Seq'], 203, one(hello, -1)),
    bad('seq 2^53', ['Limit', 'Seq'], 203, one(hello, 2 ** 53)),
    ...[
      ['an empty value', ''],
      ['a value that is not bencode', 'junk'],
      ['data after the value', 'i1ei2e'],
      ['a string that ends early', '5:abcd'],
      ['a list that does not end', 'li1e'],
      ['a string length with a leading zero', '04:spam'],
      ['an integer with a leading zero', 'i01e'],
      ['negative zero', 'i-0e'],
      ['an integer with a plus sign', 'i+1e'],
      ['an empty integer', 'ie'],
      ['keys out of order', 'd1:bi1e1:ai2ee'],
      ['keys out of order, nested', 'ld1:bi1e1:ai2eee'],
      ['a key twice', 'd1:ai1e1:ai2ee'],
      ['a key that is not a string', 'di1ei2ee'],
      ['a key without value', 'd1:ae'],
      ['a value nested 49 deep', 'l'.repeat(49) + 'i0e' + 'e'.repeat(49)]
    ].map(([comment, v]) => bad(comment, ['NotCanonical'], 203, one(hex(ascii(v))))),
    bad('an immutable value that is not bencode', ['NotCanonical', 'Immutable'], 203, { v: hex(ascii('junk')) })
  ]

  return {
    about: 'BEP 44 items: what may be stored, and what must be refused with which code.',
    groups: {
      items: 'A case with k is a mutable item, one without is immutable. signable: the signed bytes. ih: the info hash a BEP 46 pointer names, or null.',
      targets: 'Where mutable items live: SHA-1 of k and salt.'
    },
    flags: {
      Bep44: 'The vectors printed in BEP 44.',
      Bep46: 'Pointers to torrents, and the targets printed in BEP 46.',
      Forged: 'The signature does not fit what it stands beside.',
      Immutable: 'An item named by the SHA-1 of its value.',
      Limit: 'At or just past a limit.',
      Malleable: 'Another encoding of a good signature (RFC 8032 §5.1.7).',
      NotCanonical: 'The value is not the one bencoding of what it says.',
      Salt: 'Salts, and their absence.',
      Seq: 'Sequence numbers.',
      SmallOrderKey: 'A key under which anyone can make signatures that lax verifiers accept.',
      Value: 'Kinds of values.',
      WrongKey: 'A key that did not sign.'
    },
    items: cases,
    targets: [
      valid('BEP 46 test 1', ['Bep46'], { k: bep46Key }, { target: 'cc3f9d90b572172053626f9980ce261a850d050b' }),
      valid('BEP 46 test 2 (salt)', ['Bep46', 'Salt'], { k: bep46Key, salt: '6e' },
        { target: '59ee7c2cb9b4f7eb1986ee2d18fd2fdb8a56554f' })
    ]
  }
}

// --- magnets.json ---------------------------------------------------------------------------------------------------

function magnets () {
  const hash = 'c9e15763f722f23e98a29decdfae341b98d53056'
  const key = '8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e'
  const empty = { ih: null, k: null, salt: '', name: null, trackers: [], webSeeds: [], peers: [] }
  const good = (comment, flags, input, fields) => valid(comment, flags, input, { ...empty, ...fields })
  const bad = (comment, flags, input, error) => invalid(comment, flags, input, { error })
  const btih = `magnet:?xt=urn:btih:${hash}`
  const btpk = `magnet:?xs=urn:btpk:${key}`
  return {
    about: 'Magnet links (BEP 9, BEP 46): what is read from them, and which are refused.',
    flags: {
      Ambiguous: 'Names two different things where there can be one.',
      Base32: 'The older form of info hashes.',
      Bep46: 'The links printed in BEP 46, and others that name a key.',
      Escape: 'Percent-encoding.',
      InTheWild: 'Forms that deployed software writes.',
      Limit: 'At or just past a limit.',
      Malformed: 'A part that names the torrent is not what it must be.',
      NotAMagnet: 'Something else.',
      V2: 'BEP 52.'
    },
    magnets: [
      good('a torrent', [], btih, { ih: hash }),
      good('BEP 46: a key', ['Bep46'], btpk, { k: key }),
      good('BEP 46: a key with salt', ['Bep46'], `${btpk}&s=6e`, { k: key, salt: '6e' }),
      good('a key and the current torrent', ['Bep46'], `${btpk}&xt=urn:btih:${hash}`, { k: key, ih: hash }),
      good('a salt of 64 bytes', ['Bep46', 'Limit'], `${btpk}&s=${'ab'.repeat(64)}`, { k: key, salt: 'ab'.repeat(64) }),
      good('an empty salt is no salt', ['Bep46'], `${btpk}&s=`, { k: key }),
      good('a salt in upper case', ['Bep46'], `${btpk}&s=6E`, { k: key, salt: '6e' }),
      good('a key in upper case', ['Bep46'], `magnet:?xs=urn:btpk:${key.toUpperCase()}`, { k: key }),
      good('everything at once', ['Bep46', 'Escape'],
        `${btpk}&s=6e&xt=urn:btih:${hash}&dn=A%20b&tr=wss%3A%2F%2Fh%2Fannounce&tr=udp%3A%2F%2Fh%3A1&ws=https%3A%2F%2Fh%2Fd%2F&x.pe=1.2.3.4%3A5`,
        { k: key, salt: '6e', ih: hash, name: 'A b', trackers: ['wss://h/announce', 'udp://h:1'], webSeeds: ['https://h/d/'], peers: ['1.2.3.4:5'] }),
      good('an info hash in upper case', ['InTheWild'], `magnet:?xt=urn:btih:${hash.toUpperCase()}`, { ih: hash }),
      good('an info hash in base32', ['Base32'], 'magnet:?xt=urn:btih:ZHQVOY7XELZD5GFCTXWN7LRUDOMNKMCW', { ih: hash }),
      good('an info hash in lower-case base32', ['Base32', 'InTheWild'], 'magnet:?xt=urn:btih:zhqvoy7xelzd5gfctxwn7lrudomnkmcw', { ih: hash }),
      good('scheme and URN in upper case', ['InTheWild'], `MAGNET:?xt=URN:BTIH:${hash}`, { ih: hash }),
      good('numbered parameters', ['InTheWild'], `magnet:?xt.1=urn:btih:${hash}&tr.1=udp://a&tr.2=udp://b`, { ih: hash, trackers: ['udp://a', 'udp://b'] }),
      good('spaces around, empty parameters within', ['InTheWild'], `  magnet:?&dn=x&&xt=urn:btih:${hash}&\n`, { ih: hash, name: 'x' }),
      good('a hybrid torrent', ['V2'], `${btih}&xt=urn:btmh:1220${'ab'.repeat(32)}`, { ih: hash }),
      good('the same torrent twice', ['InTheWild'], `${btih}&xt=urn:btih:${hash.toUpperCase()}`, { ih: hash }),
      good('the same tracker twice', ['InTheWild'], `${btih}&tr=udp://a&tr=udp://a`, { ih: hash, trackers: ['udp://a'] }),
      good('the first name counts', ['InTheWild'], `${btih}&dn=one&dn=two`, { ih: hash, name: 'one' }),
      good('a name with plus signs for spaces', ['Escape', 'InTheWild'], `${btih}&dn=a+b`, { ih: hash, name: 'a b' }),
      good('a name in UTF-8', ['Escape'], `${btih}&dn=%C3%A9t%C3%A9`, { ih: hash, name: 'été' }),
      good('a name that looks like a script stays text', ['Escape'], `${btih}&dn=%3Cscript%3E`, { ih: hash, name: '<script>' }),
      good('unknown parameters and URNs are ignored', [], `${btih}&xl=10&xt=urn:sha1:YNCK&so=0-2&zz`, { ih: hash }),

      bad('empty', ['NotAMagnet'], '', 'NotAMagnet'),
      bad('a web address', ['NotAMagnet'], `https://example.org/?xt=urn:btih:${hash}`, 'NotAMagnet'),
      bad('a bare info hash', ['NotAMagnet'], hash, 'NotAMagnet'),
      bad('no parameters', ['Malformed'], 'magnet:?', 'NoTarget'),
      bad('only a name', ['Malformed'], 'magnet:?dn=x', 'NoTarget'),
      bad('an empty info hash', ['Malformed'], 'magnet:?xt=urn:btih:', 'Malformed'),
      bad('an info hash of 19 bytes', ['Malformed', 'Limit'], `magnet:?xt=urn:btih:${hash.slice(2)}`, 'Malformed'),
      bad('an info hash of 21 bytes', ['Malformed', 'Limit'], `magnet:?xt=urn:btih:${hash}00`, 'Malformed'),
      bad('an info hash that is not hexadecimal', ['Malformed'], `magnet:?xt=urn:btih:${'xy'.repeat(20)}`, 'Malformed'),
      bad('an info hash of 32 characters that is not base32', ['Malformed', 'Base32'], `magnet:?xt=urn:btih:${'1'.repeat(32)}`, 'Malformed'),
      bad('a key of 31 bytes', ['Malformed', 'Limit'], `magnet:?xs=urn:btpk:${key.slice(2)}`, 'Malformed'),
      bad('a key that is not hexadecimal', ['Malformed'], `magnet:?xs=urn:btpk:${'zz'.repeat(32)}`, 'Malformed'),
      bad('a salt that is not hexadecimal', ['Malformed'], `${btpk}&s=xyz`, 'Malformed'),
      bad('a salt of half a byte', ['Malformed'], `${btpk}&s=6`, 'Malformed'),
      bad('a salt of 65 bytes', ['Malformed', 'Limit'], `${btpk}&s=${'ab'.repeat(65)}`, 'Malformed'),
      bad('two torrents', ['Ambiguous'], `${btih}&xt=urn:btih:${'00'.repeat(20)}`, 'Ambiguous'),
      bad('two keys', ['Ambiguous'], `${btpk}&xs=urn:btpk:${'00'.repeat(32)}`, 'Ambiguous'),
      bad('two salts', ['Ambiguous'], `${btpk}&s=6e&s=6d`, 'Ambiguous'),
      bad('only a v2 torrent', ['V2'], `magnet:?xt=urn:btmh:1220${'ab'.repeat(32)}`, 'V2Only'),
      bad('longer than 16384 characters', ['Limit'], `${btih}&dn=${'x'.repeat(16384)}`, 'TooLong')
    ]
  }
}

// --- messages.json --------------------------------------------------------------------------------------------------

function messages () {
  const frame = JSON.stringify
  const rec = record(alice, { seq: 4, v: pointer(ih1) })
  const salted = record(alice, { salt: hex(ascii('blog')), seq: 4, v: pointer(ih1) })
  const here = target(rec)
  const blob = hex(sha1(unhex(hello)))
  const { k } = rec

  const request = (comment, flags, message, expected) => valid(comment, flags, frame(message), expected ?? message)
  const refused = (comment, flags, code, message) => invalid(comment, flags, typeof message === 'string' ? message : frame(message), { code })
  const get = fields => ({ action: 'dht_get', id: 'a', ...fields })
  const put = fields => ({ action: 'dht_put', id: 'a', ...fields })
  const subscribe = fields => ({ action: 'dht_subscribe', id: 'a', ...fields })
  const without = (object, field) => Object.fromEntries(Object.entries(object).filter(([name]) => name !== field))

  const requests = [
    request('info', ['Info'], { action: 'dht_info', id: 'a' }),
    request('an empty id', ['Id'], { action: 'dht_info', id: '' }),
    request('an id of 64 bytes', ['Id', 'Limit'], { action: 'dht_info', id: 'x'.repeat(64) }),
    request('unknown fields are ignored', ['Lenient'], { action: 'dht_info', id: 'a', later: [1] }, { action: 'dht_info', id: 'a' }),
    request('get', ['Get'], get({ k })),
    request('get with everything', ['Get', 'Salt'], get({ k, salt: salted.salt, seq: 3, max_age: 30 })),
    request('get that wants the DHT asked', ['Get'], get({ k, max_age: 0 })),
    request('get with seq 2^53-1', ['Get', 'Limit'], get({ k, seq: Number.MAX_SAFE_INTEGER })),
    request('get with the key in upper case', ['Get', 'Lenient'], get({ k: k.toUpperCase() }), get({ k })),
    request('null is left out', ['Get', 'Lenient'], get({ k, salt: null, seq: null, max_age: null, target: null }), get({ k })),
    request('an empty salt is no salt', ['Get', 'Salt', 'Lenient'], get({ k, salt: '' }), get({ k })),
    request('get an immutable item', ['Get', 'Immutable'], get({ target: blob })),
    request('get with the least version that will do', ['Get'], get({ k, min_seq: 4 })),
    request('get only what is kept', ['Get'], get({ k, mode: 'cache_only' })),
    request('get only from the DHT', ['Get'], get({ k, mode: 'network' })),
    request('get in the mode that is meant anyway', ['Get', 'Lenient'], get({ k, mode: 'cache_first' }), get({ k })),
    request('subscribe', ['Subscribe'], subscribe({ k })),
    request('subscribe with everything', ['Subscribe', 'Salt'], subscribe({ k, salt: salted.salt, seq: 3 })),
    request('unsubscribe', ['Subscribe', 'Salt'], { action: 'dht_unsubscribe', id: 'a', k, salt: salted.salt }),
    request('put', ['Put'], put(rec)),
    request('put with salt and cas', ['Put', 'Salt'], put({ ...salted, cas: 3 })),
    request('put an immutable item', ['Put', 'Immutable'], put({ v: hello })),

    refused('an unknown action', ['Action'], 204, { action: 'dht_dance', id: 'a' }),
    refused('no id', ['Id'], 203, { action: 'dht_info' }),
    refused('an id that is a number', ['Id', 'Type'], 203, { action: 'dht_info', id: 1 }),
    refused('an id of 65 bytes', ['Id', 'Limit'], 203, { action: 'dht_info', id: 'x'.repeat(65) }),
    refused('an id of 22 characters in 66 bytes', ['Id', 'Limit'], 203, { action: 'dht_info', id: '…'.repeat(22) }),
    refused('get nothing', ['Get', 'Missing'], 203, get({})),
    refused('get both kinds', ['Get'], 203, get({ k, target: blob })),
    refused('get an immutable item with salt', ['Get', 'Salt'], 203, get({ target: blob, salt: '6e' })),
    refused('a key of 31 bytes', ['Get', 'Limit'], 203, get({ k: k.slice(2) })),
    refused('a key of 33 bytes', ['Get', 'Limit'], 203, get({ k: k + '00' })),
    refused('a key that is not hexadecimal', ['Get', 'Hex'], 203, get({ k: 'zz'.repeat(32) })),
    refused('a key that is a number', ['Get', 'Type'], 203, get({ k: 1 })),
    refused('a target of 19 bytes', ['Get', 'Limit'], 203, get({ target: blob.slice(2) })),
    refused('a salt of half a byte', ['Get', 'Hex', 'Salt'], 203, get({ k, salt: '6' })),
    refused('a salt of 65 bytes', ['Get', 'Limit', 'Salt'], 207, get({ k, salt: 'ab'.repeat(65) })),
    refused('a negative seq', ['Get', 'Limit'], 203, get({ k, seq: -1 })),
    refused('seq 2^53', ['Get', 'Limit'], 203, get({ k, seq: 2 ** 53 })),
    refused('a seq that is a fraction', ['Get', 'Type'], 203, get({ k, seq: 1.5 })),
    refused('a seq that is a string', ['Get', 'Type'], 203, get({ k, seq: '1' })),
    refused('a mode that is not known', ['Get', 'Type'], 203, get({ k, mode: 'later' })),
    refused('a negative min_seq', ['Get', 'Limit'], 203, get({ k, min_seq: -1 })),
    refused('subscribe to nothing', ['Subscribe', 'Missing'], 203, subscribe({})),
    refused('subscribe with a salt of 65 bytes', ['Subscribe', 'Limit', 'Salt'], 207, subscribe({ k, salt: 'ab'.repeat(65) })),
    refused('unsubscribe from a key of 31 bytes', ['Subscribe', 'Limit'], 203, { action: 'dht_unsubscribe', id: 'a', k: k.slice(2) }),
    refused('a negative max_age', ['Get', 'Limit'], 203, get({ k, max_age: -1 })),
    ...['k', 'seq', 'sig', 'v'].map(field => refused(`put without ${field}`, ['Put', 'Missing'], 203, put(without(rec, field)))),
    refused('put an immutable item with salt', ['Put', 'Immutable', 'Salt'], 203, put({ v: hello, salt: '6e' })),
    refused('put an immutable item with cas', ['Put', 'Immutable'], 203, put({ v: hello, cas: 1 })),
    refused('put a forged record', ['Put', 'Forged'], 206, put({ ...rec, sig: flip(rec.sig, 0) })),
    refused('put a record signed by another', ['Put', 'Forged'], 206, put({ ...rec, k: bob.k })),
    refused('put with a signature of 63 bytes', ['Put', 'Limit'], 203, put({ ...rec, sig: rec.sig.slice(2) })),
    refused('put a value that is not hexadecimal', ['Put', 'Hex'], 203, put({ ...rec, v: 'xx' })),
    refused('put a value of 1001 bytes', ['Put', 'Limit'], 205, put(record(alice, { seq: 1, v: valueOf(1001) }))),
    refused('put an immutable value of 1001 bytes', ['Put', 'Limit', 'Immutable'], 205, put({ v: valueOf(1001) })),
    refused('put with a salt of 65 bytes', ['Put', 'Limit', 'Salt'], 207, put(record(alice, { salt: 'ab'.repeat(65), seq: 1, v: hello }))),
    refused('put a value that is not canonical', ['Put', 'NotCanonical'], 203, put(record(alice, { seq: 1, v: hex(ascii('d1:bi1e1:ai2ee')) }))),
    refused('put an immutable value that is not bencode', ['Put', 'NotCanonical', 'Immutable'], 203, put({ v: hex(ascii('junk')) })),
    refused('put with seq -1', ['Put', 'Limit'], 203, put(record(alice, { seq: -1, v: hello }))),
    refused('put with seq 2^53', ['Put', 'Limit'], 203, put(record(alice, { seq: 2 ** 53, v: hello }))),
    refused('put with cas -1', ['Put', 'Limit'], 203, put({ ...rec, cas: -1 })),
    refused('put with a cas that is a string', ['Put', 'Type'], 203, put({ ...rec, cas: '3' }))
  ]

  const ask = get({ k })
  const asked = (message, reply) => ({ request: message, reply: typeof reply === 'string' ? reply : frame(reply) })
  const answer = (comment, flags, message, reply, expected) => valid(comment, flags, asked(message, reply), expected)
  const discard = (comment, flags, message, reply, error) => invalid(comment, flags, asked(message, reply), { error })
  const found = fields => ({ action: 'dht_get', id: 'a', found: true, target: here, ...rec, source: 'dht', ...fields })
  const failure = (action, code, extra = {}) => ({ action, id: 'a', 'failure reason': 'a sentence', code, ...extra })
  const newer = record(alice, { seq: 6, v: pointer('22'.repeat(20)) })

  const replies = [
    answer('info', ['Info'], { action: 'dht_info', id: 'a' },
      { action: 'dht_info', id: 'a', version: 1, actions: ['dht_info', 'dht_get', 'dht_put', 'dht_subscribe', 'dht_unsubscribe'], limits: { v: 1000, salt: 64, seq: Number.MAX_SAFE_INTEGER, subscriptions: 256 }, dht: { nodes: 3, ready: true } },
      { kind: 'info', nodes: 3, ready: true }),
    answer('found in the DHT', ['Get'], ask, found(), { kind: 'record', record: rec, source: 'dht', conflict: false }),
    answer('found in the cache', ['Get'], ask, found({ source: 'cache' }), { kind: 'record', record: rec, source: 'cache', conflict: false }),
    answer('found, of two with the same seq', ['Get'], ask, found({ conflict: true }), { kind: 'record', record: rec, source: 'dht', conflict: true }),
    answer('found, with fields that are not known', ['Get', 'Lenient'], ask, found({ later: {} }), { kind: 'record', record: rec, source: 'dht', conflict: false }),
    answer('found with salt', ['Get', 'Salt'], get({ k, salt: salted.salt }),
      { action: 'dht_get', id: 'a', found: true, target: target(salted), ...salted, source: 'dht' },
      { kind: 'record', record: salted, source: 'dht', conflict: false }),
    answer('unchanged', ['Get'], get({ k, seq: 4 }), { action: 'dht_get', id: 'a', found: true, target: here, seq: 4, unchanged: true }, { kind: 'unchanged', seq: 4 }),
    answer('not found', ['Get'], ask, { action: 'dht_get', id: 'a', found: false, target: here }, { kind: 'absent' }),
    answer('an immutable item', ['Get', 'Immutable'], get({ target: blob }), { action: 'dht_get', id: 'a', found: true, target: blob, v: hello }, { kind: 'value', v: hello }),
    answer('stored', ['Put'], put(rec), { action: 'dht_put', id: 'a', target: here, seq: 4, stored: 8 }, { kind: 'stored', stored: 8, conflict: false }),
    answer('kept, stored nowhere yet', ['Put'], put(rec), { action: 'dht_put', id: 'a', target: here, seq: 4, stored: 0 }, { kind: 'stored', stored: 0, conflict: false }),
    answer('an immutable item stored', ['Put', 'Immutable'], put({ v: hello }), { action: 'dht_put', id: 'a', target: blob, stored: 8 }, { kind: 'stored', stored: 8, conflict: false }),
    answer('refused', ['Put', 'Failure'], put(rec), failure('dht_put', 206), { kind: 'failure', code: 206 }),
    answer('refused: somebody published first', ['Put', 'Failure'], put({ ...rec, cas: 3 }), failure('dht_put', 301, { current: newer }), { kind: 'failure', code: 301, current: newer }),
    answer('refused: seq goes back', ['Put', 'Failure'], put(rec), failure('dht_put', 302, { current: newer }), { kind: 'failure', code: 302, current: newer }),

    discard('a forged record', ['Get', 'Forged'], ask, found({ sig: flip(rec.sig, 0) }), 'BadSignature'),
    discard('the value changed on the way', ['Get', 'Forged'], ask, found({ v: pointer('22'.repeat(20)) }), 'BadSignature'),
    discard('a good record of another author', ['Get', 'Other'], ask, found({ ...record(bob, { seq: 4, v: hello }) }), 'NotAsked'),
    discard('a good record with another salt', ['Get', 'Other', 'Salt'], ask, found(salted), 'NotAsked'),
    discard('a good record without the salt', ['Get', 'Other', 'Salt'], get({ k, salt: salted.salt }), found(), 'NotAsked'),
    discard('older than what the client has', ['Get', 'Rollback'], get({ k, seq: 5 }), found(), 'Rollback'),
    discard('unchanged, though the client has nothing', ['Get', 'Rollback'], ask, { action: 'dht_get', id: 'a', found: true, target: here, seq: 4, unchanged: true }, 'Malformed'),
    discard('another immutable value', ['Get', 'Immutable', 'Other'], get({ target: blob }), { action: 'dht_get', id: 'a', found: true, target: blob, v: hex(ascii('i1e')) }, 'NotAsked'),
    discard('a record without signature', ['Get', 'Missing'], ask, without(found(), 'sig'), 'Malformed'),
    discard('a record whose seq is a string', ['Get', 'Type'], ask, found({ seq: '4' }), 'Malformed'),
    discard('a record whose value is not hexadecimal', ['Get', 'Hex'], ask, found({ v: 'xx' }), 'Malformed'),
    discard('neither found nor not', ['Get', 'Missing'], ask, { action: 'dht_get', id: 'a', target: here }, 'Malformed'),
    discard('a put that says not how many', ['Put', 'Missing'], put(rec), { action: 'dht_put', id: 'a', target: here, seq: 4 }, 'Malformed'),
    discard('a put stored under another target', ['Put', 'Other'], put(rec), { action: 'dht_put', id: 'a', target: blob, seq: 4, stored: 8 }, 'NotAsked'),
    discard('a conflict whose winner is forged', ['Put', 'Failure', 'Forged'], put(rec), failure('dht_put', 302, { current: { ...newer, sig: rec.sig } }), 'BadSignature'),
    discard('a conflict whose winner is another author\'s', ['Put', 'Failure', 'Other'], put(rec), failure('dht_put', 302, { current: record(bob, { seq: 6, v: hello }) }), 'NotAsked'),
    discard('not JSON', ['Type'], ask, 'junk', 'Malformed'),
    discard('JSON that is no object', ['Type'], ask, '[]', 'Malformed')
  ]

  const followed = fields => ({ action: 'dht_subscribe', id: 'a', found: true, target: here, ...rec, source: 'cache', ...fields })
  const subscriptions = [
    answer('subscribed, with the newest version', ['Subscribe'], subscribe({ k }), followed(), { kind: 'record', record: rec, source: 'cache', conflict: false }),
    answer('subscribed, nothing newer', ['Subscribe'], subscribe({ k, seq: 4 }), { action: 'dht_subscribe', id: 'a', found: true, target: here, seq: 4, unchanged: true }, { kind: 'unchanged', seq: 4 }),
    answer('subscribed, though there is nothing yet', ['Subscribe'], subscribe({ k }), { action: 'dht_subscribe', id: 'a', found: false, target: here }, { kind: 'absent' }),
    answer('subscription refused', ['Subscribe', 'Failure'], subscribe({ k }), failure('dht_subscribe', 202), { kind: 'failure', code: 202 }),
    answer('unsubscribed', ['Subscribe'], { action: 'dht_unsubscribe', id: 'a', k }, { action: 'dht_unsubscribe', id: 'a', target: here }, { kind: 'unsubscribed' }),
    discard('subscribed to a forged record', ['Subscribe', 'Forged'], subscribe({ k }), followed({ sig: flip(rec.sig, 0) }), 'BadSignature'),
    discard('subscribed to another author', ['Subscribe', 'Other'], subscribe({ k }), followed(record(bob, { seq: 4, v: hello })), 'NotAsked')
  ]

  // What a client that follows alice's record with and without salt, and has number 4 of both, makes of a push.
  const pushed = fields => ({ action: 'dht_update', target: here, ...newer, ...fields })
  const update = message => ({ following: [{ k }, { k, salt: salted.salt }], seq: 4, v: rec.v, update: frame(message) })
  const [larger, smaller] = ['ff', '00'].map(byte => record(alice, { seq: 4, v: pointer(byte.repeat(20)) }))
  const saltedNewer = record(alice, { salt: salted.salt, seq: 6, v: pointer(ih1) })
  const push = (comment, flags, message, expected) => valid(comment, flags, update(message), expected)
  const drop = (comment, flags, message, error) => invalid(comment, flags, update(message), { error })
  const updates = [
    push('a newer version', ['Update'], pushed(), { record: newer, conflict: false }),
    push('a newer version, of two with its number', ['Update'], pushed({ conflict: true }), { record: newer, conflict: true }),
    push('a newer version with salt', ['Update', 'Salt'], { action: 'dht_update', target: target(saltedNewer), ...saltedNewer }, { record: saltedNewer, conflict: false }),
    drop('a forged update', ['Update', 'Forged'], pushed({ sig: flip(newer.sig, 0) }), 'BadSignature'),
    drop('an update whose value was changed', ['Update', 'Forged'], pushed({ v: pointer('33'.repeat(20)) }), 'BadSignature'),
    push('another value with the known number, larger', ['Update', 'Conflict'], pushed({ ...larger, conflict: true }), { record: larger, conflict: true }),
    drop('another value with the known number, smaller', ['Update', 'Conflict', 'Rollback'], pushed({ ...smaller, conflict: true }), 'Rollback'),
    drop('an update that is known', ['Update', 'Rollback'], pushed(rec), 'Rollback'),
    drop('an update that goes back', ['Update', 'Rollback'], pushed(record(alice, { seq: 3, v: pointer(ih1) })), 'Rollback'),
    drop('an update of what is not followed', ['Update', 'Other'], pushed({ ...record(bob, { seq: 6, v: hello }) }), 'NotAsked'),
    drop('an update without signature', ['Update', 'Missing'], without(pushed(), 'sig'), 'Malformed'),
    drop('an update whose seq is a string', ['Update', 'Type'], pushed({ seq: '6' }), 'Malformed')
  ]

  const latin1 = text => Buffer.from(text, 'hex').toString('latin1')
  const announce = bep46 => frame({ action: 'announce', info_hash: latin1(here), peer_id: '-WW0001-000000000000', offers: [], bep46 })
  const carried = frame({ action: 'announce', interval: 120, info_hash: latin1(here), complete: 0, incomplete: 1, bep46: rec })
  const announces = [
    valid('a page that has nothing', ['Announce'], { announce: announce({}), reply: carried }, { seq: null }),
    valid('a page that has an older version', ['Announce'], { announce: announce({ seq: 3 }), reply: carried }, { seq: 3 }),
    valid('a page that has the newest', ['Announce'], { announce: announce({ seq: 4, k }) }, { seq: 4 }),
    valid('fields that are not known', ['Announce', 'Lenient'], { announce: announce({ seq: 3, later: [] }), reply: carried }, { seq: 3 }),
    invalid('the key of another target', ['Announce', 'Other'], { announce: announce({ k: bob.k }) }, { code: 203 }),
    invalid('a salt that makes it another target', ['Announce', 'Other', 'Salt'], { announce: announce({ k, salt: '6e' }) }, { code: 203 }),
    invalid('a seq that is a string', ['Announce', 'Type'], { announce: announce({ seq: '3' }) }, { code: 203 }),
    invalid('not an object', ['Announce', 'Type'], { announce: announce(3) }, { code: 203 })
  ]

  return {
    about: 'Messages of dht-proxy.md. Inputs are text frames exactly as sent.',
    groups: {
      announces: 'Announces with a bep46 field, what a server reads from it (code: why it ignores it), and its extra reply when it has number 4 and the swarm has one leecher.',
      subscriptions: 'As replies, to dht_subscribe and dht_unsubscribe.',
      updates: 'What a client makes of a push when it follows these items and has number seq with value v of each.',
      requests: 'What a server makes of a frame: expected is the request as understood, code the one it refuses with. A put is valid when its item is, too.',
      replies: 'What a client makes of a reply to its request. error: Malformed (not a message of this kind), BadSignature, NotAsked (good, but about something else), Rollback (older than the seq the request named).'
    },
    flags: {
      Action: 'Which actions there are.',
      Announce: 'Records in announces.',
      Conflict: 'Two values with one number.',
      Failure: 'Error replies.',
      Forged: 'The signature does not fit what it stands beside.',
      Get: 'dht_get.',
      Hex: 'Hexadecimal.',
      Id: 'The id that joins request and reply.',
      Immutable: 'Items named by the SHA-1 of their value.',
      Info: 'dht_info.',
      Lenient: 'What readers must tolerate.',
      Limit: 'At or just past a limit.',
      Missing: 'A field that must be there is not.',
      NotCanonical: 'The value is not the one bencoding of what it says.',
      Other: 'A good answer to another question.',
      Put: 'dht_put.',
      Rollback: 'Versions that go back.',
      Salt: 'Salts, and their absence.',
      Subscribe: 'dht_subscribe and dht_unsubscribe.',
      Type: 'A field of the wrong type.',
      Update: 'dht_update.'
    },
    requests,
    replies,
    subscriptions,
    updates,
    announces
  }
}

// --- exchange.json --------------------------------------------------------------------------------------------------

function exchange () {
  const bencode = value => {
    if (typeof value === 'number' || typeof value === 'bigint') return ascii(`i${value}e`)
    if (Buffer.isBuffer(value)) return string(value)
    if (Array.isArray(value)) return Buffer.concat([ascii('l'), ...value.map(bencode), ascii('e')])
    const entries = Object.entries(value).filter(([, inner]) => inner !== undefined)
    const sorted = entries.sort(([a], [b]) => Buffer.compare(ascii(a), ascii(b)))
    return Buffer.concat([ascii('d'), ...sorted.flatMap(([key, inner]) => [string(ascii(key)), bencode(inner)]), ascii('e')])
  }
  const payload = message => hex(bencode(message))
  const salt = hex(ascii('blog'))
  const plain = record(alice, { seq: 4, v: pointer(ih1) })
  const salted = record(alice, { salt, seq: 7, v: pointer(ih1) })
  const h = item => hex(sha1(unhex(item.v)))
  const entry = ({ k, salt, seq, h }) => ({ h: h && unhex(h), k: unhex(k), salt: salt && unhex(salt), seq })
  const have = (...entries) => ({ msg_type: 0, r: entries })
  const brings = ({ k, salt, seq, v, sig }) =>
    ({ k: unhex(k), msg_type: 1, salt: salt && unhex(salt), seq, sig: unhex(sig), v: unhex(v) })
  const has = item => ({ k: item.k, ...(item.salt ? { salt: item.salt } : {}), seq: item.seq, h: h(item) })
  const wants = item => ({ k: item.k, ...(item.salt ? { salt: item.salt } : {}) })

  const good = (comment, flags, message, expected) => valid(comment, flags, payload(message), expected)
  const bad = (comment, flags, message) => invalid(comment, flags, typeof message === 'string' ? message : payload(message), {})
  const tells = (...records) => ({ kind: 'have', records })
  const many = count => Array.from({ length: count }, (_, i) => record(alice, { salt: hex(Buffer.from([i + 1])), seq: 1, v: hello }))
  const without = (object, key) => ({ ...object, [key]: undefined })
  const first = entry(has(plain))
  const whole = brings(plain)

  const messages = [
    good('have, of one record', ['Have'], have(first), tells(has(plain))),
    good('have, with salt', ['Have', 'Salt'], have(entry(has(salted))), tells(has(salted))),
    good('have nothing yet and want it', ['Have'], have(entry(wants(salted))), tells(wants(salted))),
    good('have, of two records', ['Have'], have(first, entry(wants(salted))), tells(has(plain), wants(salted))),
    good('have, of none', ['Have'], have(), tells()),
    good('have seq 0', ['Have', 'Limit'], have({ ...first, seq: 0 }), tells({ ...has(plain), seq: 0 })),
    good('have seq 2^53-1', ['Have', 'Limit'], have({ ...first, seq: Number.MAX_SAFE_INTEGER }), tells({ ...has(plain), seq: Number.MAX_SAFE_INTEGER })),
    good('have, of 16 records', ['Have', 'Limit'], have(...many(16).map(item => entry(has(item)))), tells(...many(16).map(has))),
    good('have, of 17 records: the last is ignored', ['Have', 'Limit'], have(...many(17).map(item => entry(has(item)))), tells(...many(16).map(has))),
    good('have, with keys that are not known', ['Have', 'Lenient'], { ...have({ ...first, x: 1 }), zz: ascii('later') }, tells(has(plain))),
    good('an empty salt is no salt', ['Have', 'Salt', 'Lenient'], have({ ...first, salt: ascii('') }), tells(has(plain))),
    good('a record', ['Record'], whole, { kind: 'record', record: plain }),
    good('a record with salt', ['Record', 'Salt'], brings(salted), { kind: 'record', record: salted }),
    good('a record of the largest value and salt', ['Record', 'Limit', 'Salt'],
      brings(record(alice, { salt: 'ab'.repeat(64), seq: 1, v: valueOf(1000) })),
      { kind: 'record', record: record(alice, { salt: 'ab'.repeat(64), seq: 1, v: valueOf(1000) }) }),
    good('a record with keys that are not known', ['Record', 'Lenient'], { ...whole, cas: 3 }, { kind: 'record', record: plain }),
    good('a message of a later version', ['Lenient'], { msg_type: 2, what: 1 }, { kind: 'unknown' }),

    bad('nothing', ['Type'], ''),
    bad('not bencode', ['Type'], hex(ascii('junk'))),
    bad('a list', ['Type'], hex(ascii('le'))),
    bad('data after the dictionary', ['Type'], payload(whole) + '00'),
    bad('a dictionary that does not end', ['Type'], payload(whole).slice(0, -2)),
    bad('no msg_type', ['Missing'], without(whole, 'msg_type')),
    bad('a msg_type that is a string', ['Type'], { ...whole, msg_type: ascii('1') }),
    bad('have without records', ['Have', 'Missing'], { msg_type: 0 }),
    bad('have, and an entry is a string', ['Have', 'Type'], have(ascii('x'))),
    bad('have without key', ['Have', 'Missing'], have(without(first, 'k'))),
    bad('have with a key of 31 bytes', ['Have', 'Length'], have({ ...first, k: Buffer.alloc(31, 1) })),
    bad('have with a hash of 19 bytes', ['Have', 'Length'], have({ ...first, h: Buffer.alloc(19, 1) })),
    bad('have with seq and no hash', ['Have', 'Missing'], have(without(first, 'h'))),
    bad('have with a hash and no seq', ['Have', 'Missing'], have(without(first, 'seq'))),
    bad('have with a salt of 65 bytes', ['Have', 'Limit', 'Salt'], have({ ...first, salt: Buffer.alloc(65, 1) })),
    bad('have seq -1', ['Have', 'Limit'], have({ ...first, seq: -1 })),
    bad('have seq 2^53', ['Have', 'Limit'], have({ ...first, seq: 2n ** 53n })),
    bad('a record without key', ['Record', 'Missing'], without(whole, 'k')),
    bad('a record without seq', ['Record', 'Missing'], without(whole, 'seq')),
    bad('a record without signature', ['Record', 'Missing'], without(whole, 'sig')),
    bad('a record without value', ['Record', 'Missing'], without(whole, 'v')),
    bad('a record with a signature of 63 bytes', ['Record', 'Length'], { ...whole, sig: Buffer.alloc(63, 1) }),
    bad('a record whose value is not in a string', ['Record', 'Type'], { ...whole, v: { ih: unhex(ih1) } }),
    bad('a record with a salt of 65 bytes', ['Record', 'Limit', 'Salt'], { ...whole, salt: Buffer.alloc(65, 1) }),
    bad('a message of 4097 bytes', ['Limit'], { ...whole, zz: Buffer.alloc(4097 - bencode({ ...whole, zz: Buffer.alloc(1000) }).length + 1000) })
  ]

  const refuse = (comment, flags, code, item) => invalid(comment, flags, payload(brings(item)), { code })
  const records = [
    valid('a good record', ['Record'], payload(whole), { target: target(plain) }),
    valid('a good record with salt', ['Record', 'Salt'], payload(brings(salted)), { target: target(salted) }),
    refuse('a forged signature', ['Forged'], 206, { ...plain, sig: flip(plain.sig, 5) }),
    refuse('the value changed on the way', ['Forged'], 206, { ...plain, v: pointer('22'.repeat(20)) }),
    refuse('seq raised on the way', ['Forged'], 206, { ...plain, seq: 5 }),
    refuse('the salt left out on the way', ['Forged', 'Salt'], 206, { ...salted, salt: undefined }),
    refuse('another author\'s key', ['Forged'], 206, { ...plain, k: bob.k }),
    refuse('a value of 1001 bytes', ['Limit'], 205, record(alice, { seq: 1, v: valueOf(1001) })),
    refuse('a value that is not canonical', ['NotCanonical'], 203, record(alice, { seq: 1, v: hex(ascii('d1:bi1e1:ai2ee')) })),
    refuse('seq -1', ['Limit'], 203, record(alice, { seq: -1, v: hello }))
  ]

  const against = (comment, flags, seqA, a, seqB, b, expected) => {
    const item = (seq, v) => record(alice, { seq, v: hex(ascii(v)) })
    return valid(comment, flags, { offered: item(seqA, a), known: item(seqB, b) }, expected)
  }
  const order = [
    against('a higher seq', ['Order'], 5, '1:a', 4, '1:z', { replaces: true, conflict: false }),
    against('a lower seq', ['Order', 'Rollback'], 3, '1:z', 4, '1:a', { replaces: false, conflict: false }),
    against('the same version', ['Order'], 4, '1:a', 4, '1:a', { replaces: false, conflict: false }),
    against('equal seq, the larger value', ['Order', 'Conflict'], 4, '1:b', 4, '1:a', { replaces: true, conflict: true }),
    against('equal seq, the smaller value', ['Order', 'Conflict'], 4, '1:a', 4, '1:b', { replaces: false, conflict: true }),
    against('equal seq: bytes decide, not lengths', ['Order', 'Conflict'], 4, '2:aa', 4, '1:b', { replaces: true, conflict: true }),
    against('equal seq: as bytes, 1 is before i', ['Order', 'Conflict'], 4, 'i1e', 4, '1:z', { replaces: true, conflict: true })
  ]

  return {
    about: 'Messages of record-exchange.md. Inputs of messages and records are payloads of extended messages, in hexadecimal.',
    groups: {
      messages: 'What a reader makes of a payload; invalid ones are ignored. Records are not verified here.',
      records: 'What becomes of a record that replaces what is known: code is that of BEP 44 and dht-proxy.md.',
      order: 'Whether the version offered replaces the one known, and whether they are in conflict.'
    },
    flags: {
      Conflict: 'Two values with one sequence number.',
      Forged: 'The signature does not fit what it stands beside.',
      Have: 'have (0).',
      Length: 'A byte string of the wrong length.',
      Lenient: 'What readers must tolerate.',
      Limit: 'At or just past a limit.',
      Missing: 'A key that must be there is not.',
      NotCanonical: 'The value is not the one bencoding of what it says.',
      Order: 'Which version wins.',
      Record: 'record (1).',
      Rollback: 'Versions that go back.',
      Salt: 'Salts, and their absence.',
      Type: 'Not a dictionary, or a value of the wrong type.'
    },
    messages,
    records,
    order
  }
}

// --- files ----------------------------------------------------------------------------------------------------------

/** Throws when a flag is used and not explained, or explained and not used. */
function checkFlags (file, content) {
  const used = new Set(Object.values(content).filter(Array.isArray).flat().flatMap(({ flags }) => flags))
  const explained = new Set(Object.keys(content.flags))
  const odd = [...used, ...explained].filter(flag => used.has(flag) !== explained.has(flag))
  if (odd.length > 0) throw new Error(`${file}: flags used or explained only: ${odd}`)
}

let stale = 0
for (const [file, content] of Object.entries({ 'items.json': items(), 'magnets.json': magnets(), 'messages.json': messages(), 'exchange.json': exchange() })) {
  checkFlags(file, content)
  const path = new URL(file, import.meta.url)
  const text = JSON.stringify(content, null, 2) + '\n'
  if (!process.argv.includes('--check')) {
    writeFileSync(path, text)
  } else if (readFileSync(path, 'utf8') !== text) {
    console.error(`${file} is not what generate.mjs writes: run it without --check`)
    stale = 1
  }
}
process.exitCode = stale
