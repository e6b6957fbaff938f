// Makes requests as a program with mqtt.js does, which sends no SUBSCRIBE, and prints their responses.
//
// Standard input: {"url", "options": of mqtt.connect, "ca": a file, "requests": [{"topic", "payload"}]}
// Standard output: {"responses": [{"topic", "payload"}]}, or {"refused": the reason}

const fs = require("fs");
const mqtt = require("mqtt");

const WITHIN_MS = 20_000;
const { url, options, ca, requests } = JSON.parse(fs.readFileSync(0, "utf8"));

function done(result) {
  console.log(JSON.stringify(result));
  process.exit(0);
}

setTimeout(() => done({ refused: `nothing within ${WITHIN_MS} ms` }), WITHIN_MS);
const client = mqtt.connect(url, {
  ...options,
  reconnectPeriod: 0,
  ca: ca ? fs.readFileSync(ca) : undefined,
});
client.on("error", (error) => done({ refused: error.message, code: error.code }));
client.on("close", () => done({ refused: "the connection was closed" }));

const responses = [];
client.on("message", (topic, payload) => {
  responses.push({ topic, payload: payload.toString() });
  next();
});

function next() {
  const request = requests[responses.length];
  if (!request) {
    client.removeAllListeners("close");
    client.end(false, () => done({ responses }));
    return;
  }
  client.publish(request.topic, request.payload, { qos: 1 }, (error) => error && done({ refused: error.message }));
}

client.on("connect", next);
