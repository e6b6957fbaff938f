"""A device as in Kaa's tutorials: it publishes with a request id, never subscribes, and prints the responses it gets.

It runs with paho-mqtt 1 and 2 alike, as the tutorials' readers have either. Arguments: port, application version,
endpoint token, number of samples. Output: one JSON line per response. Ends when every sample has its response.
"""

import json
import queue
import random
import sys
import time

import paho.mqtt.client as mqtt

port, version, token, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
data_topic = f"kp1/{version}/dcx/{token}/json/32"
responses = queue.Queue()
name = f"tutorial-{random.randrange(10**9)}"

if hasattr(mqtt, "CallbackAPIVersion"):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
else:
    client = mqtt.Client(client_id=name)
# A callback for commands, which is local to the client: nothing is sent for it.
client.message_callback_add(f"kp1/{version}/cex/{token}/command/reboot/status", lambda *_: None)
client.on_message = lambda client, userdata, message: responses.put(message)
client.connect("127.0.0.1", port, 60)
client.loop_start()

for number in range(count):
    sample = {"timestamp": int(time.time() * 1000), "fuelLevel": 100 - 0.3 * number, "temperature": number}
    # QoS 0, as the tutorials do it.
    client.publish(topic=data_topic, payload=json.dumps(sample))
    response = responses.get(timeout=10)
    print(json.dumps({"topic": response.topic, "payload": response.payload.decode()}), flush=True)

client.loop_stop()
client.disconnect()
