// Another implementation's SPDY/3.1, as a client of a streaming server.
// node spdy.js URL exec INPUT STREAM...   prints what came on each stream as JSON
// node spdy.js URL ports PORT QUESTION... prints the answer to each question as JSON
'use strict'

const net = require('net')
const transport = require('spdy-transport')

// Kubernetes' streams answer without HTTP's pseudo headers.
transport.Stream.prototype._handleResponse = function (frame) {
  this._spdyState.needResponse = false
  this.emit('response', 200, frame.headers)
}

function connect (url, protocol, started) {
  const { hostname, port, pathname, host } = new URL(url)
  const socket = net.connect(port, hostname)
  socket.write(`POST ${pathname} HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\n` +
    `Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: ${protocol}\r\n\r\n`)
  let head = Buffer.alloc(0)
  socket.on('data', function upgrade (bytes) {
    head = Buffer.concat([head, bytes])
    const end = head.indexOf('\r\n\r\n')
    if (end < 0) return
    socket.removeListener('data', upgrade)
    const text = head.toString('latin1', 0, end)
    if (!/^HTTP\/1.1 101 /.test(text) || !text.toLowerCase().includes(`version: ${protocol}`)) {
      throw new Error(text)
    }
    socket.pause()
    if (head.length > end + 4) socket.unshift(head.subarray(end + 4))
    const connection = transport.connection.create(socket, { protocol: 'spdy', isServer: false })
    connection.start(3.1)
    started(connection, socket)
  })
}

function open (connection, headers) {
  return new Promise((resolve, reject) => {
    connection.request({ method: 'POST', path: '/', host: 'x', headers }, (error, stream) => {
      error ? reject(error) : resolve(stream)
    })
  })
}

function all (stream) {
  return new Promise((resolve, reject) => {
    let text = ''
    stream.on('data', (bytes) => { text += bytes.toString('latin1') })
    stream.on('end', () => resolve(text))
    stream.on('error', reject)
  })
}

const [url, mode, ...rest] = process.argv.slice(2)

function finish (socket, result) {
  process.stdout.write(JSON.stringify(result))
  socket.destroy()
}

if (mode === 'exec') {
  connect(url, 'v4.channel.k8s.io', async (connection, socket) => {
    const [input, ...names] = rest
    const read = {}
    for (const name of names) {
      const stream = await open(connection, { streamType: name })
      if (name === 'stdin') {
        stream.resume()
        stream.end(input)
      } else {
        if (name === 'error') stream.end()
        read[name] = all(stream)
      }
    }
    const result = {}
    for (const name of Object.keys(read)) result[name] = await read[name]
    finish(socket, result)
  })
} else {
  connect(url, 'portforward.k8s.io', async (connection, socket) => {
    const [port, ...questions] = rest
    const answers = await Promise.all(questions.map(async (question, number) => {
      const requestID = String(number)
      const error = await open(connection, { streamType: 'error', port, requestID })
      error.end()
      const data = await open(connection, { streamType: 'data', port, requestID })
      data.end(question)
      return { answer: await all(data), error: await all(error) }
    }))
    finish(socket, answers)
  })
}
