// What Logto does around its connector: it sends a person where the connector says, keeps for it what that wants kept, and hands it
// what came back. `LOGTO` has the connector's settings, and the shop's address.

import { randomUUID } from 'node:crypto'
import createConnector from '@logto/connector-oidc'
import express from 'express'
import session from 'express-session'

const { settings, shop } = JSON.parse(process.env.LOGTO)
const connector = await createConnector({ getConfig: async () => settings })
const app = express()
app.use(session({ secret: randomUUID(), resave: false, saveUninitialized: false }))

app.get('/login', async (request, reply) => {
  const state = randomUUID()
  const keep = async (kept) => Object.assign(request.session, { state, kept })
  reply.redirect(await connector.getAuthorizationUri({ state, redirectUri: `${shop}/callback` }, keep))
})

app.get('/callback', async (request, reply) => {
  const { state, ...answer } = request.query
  if (state !== request.session.state) throw new Error('unexpected state')
  reply.json(await connector.getUserInfo(answer, async () => request.session.kept))
})

app.get('/', (request, reply) => reply.end())
app.use((error, request, reply, next) => reply.status(403).send(`Not logged in: ${error.message} ${JSON.stringify(error.data)}`))
app.listen(new URL(shop).port, '127.0.0.1')
