// Packages without types, as far as the tests use them.

declare module 'bittorrent-dht'
declare module 'bittorrent-tracker'
declare module 'bencode' {
  const bencode: { encode(value: unknown): Uint8Array; decode(bytes: Uint8Array): any }
  export default bencode
}
