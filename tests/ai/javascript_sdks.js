// Calls by the official JavaScript SDKs of two generations, unmodified, from inside of a workspace.

import assert from "node:assert";
import Anthropic from "@anthropic-ai/sdk";
import AnthropicOld from "anthropic-old";
import OpenAI from "openai";
import OpenAIOld from "openai-old";
import { GoogleGenAI } from "@google/genai";
import { GoogleGenAI as GoogleGenAIOld } from "genai-old";

const whole = "Hello w1 w2 w3 w4 w5 w6 w7";
const schema = { type: "object", properties: { path: { type: "string" }, content: { type: "string" } } };

async function withAnthropic(Client) {
    const client = new Client();
    const asked = { model: "claude-haiku-4-5", max_tokens: 1000, messages: [{ role: "user", content: "hello" }] };
    assert.equal((await client.messages.create(asked)).content[0].text, whole);
    const streamed = await client.messages.stream(asked).finalMessage();
    assert.equal(streamed.content[0].text, whole);
    const tools = [{ name: "write", description: "Writes.", input_schema: schema }];
    const turn = [{ role: "user", content: "[tool][think]" }];
    const message = await client.messages.stream({ ...asked, messages: turn, tools }).finalMessage();
    const call = message.content.at(-1);
    assert.equal(call.name, "write");
    turn.push({ role: "assistant", content: message.content });
    turn.push({ role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "done" }] });
    assert.ok((await client.messages.create({ ...asked, messages: turn, tools })).content.length > 0);
}

async function withOpenAI(Client) {
    const client = new Client();
    const [model, messages] = ["gpt-5-mini", [{ role: "user", content: "hello" }]];
    assert.equal((await client.chat.completions.create({ model, messages })).choices[0].message.content, whole);
    let text = "";
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
        text += chunk.choices[0].delta.content ?? "";
    }
    assert.equal(text, whole);
    assert.equal((await client.responses.create({ model, input: "hello" })).output_text, whole);
    const tools = [{ type: "function", name: "write", strict: false, parameters: schema }];
    const response = await client.responses.stream({ model, input: "[tool]", tools }).finalResponse();
    const call = response.output.at(-1);
    assert.equal(call.type, "function_call");
    const output = { type: "function_call_output", call_id: call.call_id, output: "done" };
    const input = [{ role: "user", content: "[tool]" }, ...response.output, output];
    assert.ok((await client.responses.create({ model, input, tools })).output.length > 0);
}

async function withGoogle(Client) {
    const baseUrl = process.env.GOOGLE_GEMINI_BASE_URL;
    const client = new Client({ apiKey: process.env.GOOGLE_API_KEY, httpOptions: { baseUrl } });
    const [model, contents] = ["gemini-2.5-flash", "hello"];
    assert.equal((await client.models.generateContent({ model, contents })).text, whole);
    let text = "";
    for await (const chunk of await client.models.generateContentStream({ model, contents })) {
        text += chunk.text ?? "";
    }
    assert.equal(text, whole);
    const declaration = { name: "write", description: "Writes.", parametersJsonSchema: schema };
    const config = { tools: [{ functionDeclarations: [declaration] }] };
    const answer = await client.models.generateContent({ model, contents: "[tool]", config });
    assert.equal(answer.functionCalls[0].name, "write");
}

for (const Client of [Anthropic, AnthropicOld]) {
    await withAnthropic(Client);
}
for (const Client of [OpenAI, OpenAIOld]) {
    await withOpenAI(Client);
}
for (const Client of [GoogleGenAI, GoogleGenAIOld]) {
    await withGoogle(Client);
}
console.log("ok");
