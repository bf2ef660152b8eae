// What both scripts share: their arguments, and what they say, one JSON object a line.
//
//   node <script> URL [--token T] [--last-event-id ID] [--event NAME]…
//
// Lines: {"type", "id", "data"} for an event, {"state", …} for a change of the connection. A script ends with its stdin.
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    token: { type: 'string' },
    'last-event-id': { type: 'string' },
    event: { type: 'string', multiple: true, default: ['message'] },
  },
})

if (positionals.length !== 1) {
  console.error('usage: node <script> URL [--token T] [--last-event-id ID] [--event NAME]…')
  process.exit(2)
}

export const url = positionals[0]
export const eventNames = values.event
export const lastEventId = values['last-event-id']
export const authorization = values.token === undefined ? {} : { Authorization: `Bearer ${values.token}` }

export function say(line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

// So that nothing is left behind, however the test that started it ends.
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
