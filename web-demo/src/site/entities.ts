/** Stands in for the `entities` package, of which markdown-it uses one function: see `vite.config.ts`. */
import { decodeEntity } from './door.ts'

const decoded = new Map<string, string>()

/** Distinct entities remembered; a page that has more is decoding slowly, not wrongly. */
const REMEMBERED = 2_500

export function decodeHTMLStrict(entity: string): string {
  let character = decoded.get(entity)
  if (character === undefined) {
    character = decodeEntity(entity)
    if (decoded.size < REMEMBERED) decoded.set(entity, character)
  }
  return character
}
