// For programs outside this package.

export { default } from 'bencode'
