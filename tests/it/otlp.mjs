// Reads OTLP/JSON requests, one a line, and puts each through the protobuf definitions of the OpenTelemetry project (npm package
// @opentelemetry/otlp-transformer): it must be a valid ExportTraceServiceRequest, and come out of its binary form as it went in, so that no
// field has a name or a type that a receiver does not know. Prints how many spans there were. NODE_PATH leads to the package.
import { createRequire } from "module";
import { isDeepStrictEqual } from "util";
import fs from "fs";

const require = createRequire(process.env.OTLP_MODULES + "/");
const root = require("@opentelemetry/otlp-transformer/build/src/generated/root");
const Request = root.opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest;
const IDS = ["traceId", "spanId", "parentSpanId"];

// OTLP/JSON has ids in hex where protobuf's own JSON has base64.
function map(value, change, key) {
	if (Array.isArray(value)) return value.map((x) => map(x, change));
	if (IDS.includes(key)) return change(value);
	if (value && typeof value === "object" && !(value instanceof Uint8Array))
		return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, map(v, change, k)]));
	return value;
}

let spans = 0;
for (const line of fs.readFileSync(0, "utf8").split("\n").filter(Boolean)) {
	const sent = JSON.parse(line);
	const request = Request.fromObject(map(sent, (hex) => Buffer.from(hex, "hex")));
	const wrong = Request.verify(request);
	if (wrong) throw new Error(`${wrong}: ${line.slice(0, 2000)}`);
	const bytes = Request.encode(request).finish();
	const options = { longs: String, bytes: Uint8Array };
	const back = map(Request.toObject(Request.decode(bytes), options), (b) => Buffer.from(b).toString("hex"));
	if (!isDeepStrictEqual(JSON.parse(JSON.stringify(back)), sent))
		throw new Error(`another thing came out:\n${JSON.stringify(back).slice(0, 3000)}\n${line.slice(0, 3000)}`);
	for (const r of sent.resourceSpans) for (const s of r.scopeSpans) spans += s.spans.length;
}
console.log(spans);
