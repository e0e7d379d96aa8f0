//! Tools that a request offers, in whatever protocol, and the call of the one that fits: coding agents are asked to write a file, and each has
//! a tool of its own for it.

use serde_json::{Map, Value, json};

/// Tools that write a file, as agents name them.
const WRITERS: [&str; 2] = ["write", "write_file"];
/// Tools that run a command.
const SHELLS: [&str; 5] = ["exec_command", "shell", "shell_command", "bash", "run_shell_command"];
/// Function that a tool which runs programs has to describe: Codex offers all others inside of one.
const NESTED_SHELL: &str = "exec_command";
/// Content of the file.
const CONTENT: &str = "made";

/// Tool that a request offers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offered {
    pub(crate) name: String,
    /// Name of the group that it is in.
    pub(crate) namespace: Option<String>,
    pub(crate) description: String,
    /// JSON schema of its arguments. Null: it takes text.
    pub(crate) schema: Value,
}

/// Call of a tool.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    /// JSON object, or a text.
    pub(crate) arguments: String,
    pub(crate) is_text: bool,
}

/// Tools of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tools {
    pub(crate) offered: Vec<Offered>,
    /// A tool was called already.
    pub(crate) has_result: bool,
}

impl Tools {
    /// Returns a call of the first tool.
    pub(crate) fn first(&self) -> Option<Call> {
        let arguments = json!({"path": "/home/developer/made-by-tool", "content": format!("{CONTENT}\n")});
        let named = self.offered.iter().find(|tool| !tool.name.is_empty());
        named.map(|tool| tool.call(arguments.to_string(), false))
    }

    /// Returns the call that writes the file at `path`, by the tool that fits best.
    pub(crate) fn writing(&self, path: &str) -> Option<Call> {
        let named = |names: &[&str]| {
            let is = |tool: &&Offered| names.contains(&tool.name.to_lowercase().as_str());
            self.offered.iter().filter(|tool| !tool.schema.is_null()).find(is)
        };
        if let Some(tool) = named(&WRITERS).or_else(|| named(&SHELLS)) {
            return Some(tool.call(arguments(&tool.schema, path).to_string(), false));
        }
        let runs = |tool: &&Offered| tool.schema.is_null() && tool.description.contains(NESTED_SHELL);
        // In two statements, of which the first is a program too: whoever runs half a call has run it.
        let program =
            format!("const ran = await tools.{NESTED_SHELL}({});\ntext(ran);", json!({"cmd": command(path)}));
        self.offered.iter().find(runs).map(|tool| tool.call(program, true))
    }
}

impl Offered {
    fn call(&self, arguments: String, is_text: bool) -> Call {
        Call { name: self.name.clone(), namespace: self.namespace.clone(), arguments, is_text }
    }
}

impl Call {
    /// Returns the arguments of a call that a limit has cut off: those that are most like whole ones.
    pub(crate) fn cut(&self) -> &str {
        let end = if self.is_text { self.arguments.rfind('\n') } else { self.arguments.len().checked_sub(3) };
        end.and_then(|end| self.arguments.get(..end)).unwrap_or_default()
    }
}

fn command(path: &str) -> String {
    format!("echo {CONTENT} > '{path}'")
}

/// Returns the arguments that a schema requires.
fn arguments(schema: &Value, path: &str) -> Value {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let argument = |name: &str| match name {
        "path" | "file_path" | "filePath" => json!(path),
        "content" => json!(format!("{CONTENT}\n")),
        "cmd" | "command" if schema["properties"][name]["type"] == "array" => {
            json!(["bash", "-lc", command(path)])
        }
        "cmd" | "command" => json!(command(path)),
        _ => json!("Write the file."),
    };
    required.map(|name| (name.to_owned(), argument(name))).collect::<Map<_, _>>().into()
}

/// Returns a value that fits a schema, as far as agents use them.
pub(crate) fn fitting(schema: &Value) -> Value {
    match schema["type"].as_str().unwrap_or_default().to_lowercase().as_str() {
        "object" => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            properties.map(|(name, schema)| (name.clone(), fitting(schema))).collect::<Map<_, _>>().into()
        }
        "array" => json!([]),
        "integer" | "number" => json!(1),
        "boolean" => json!(false),
        _ => schema["enum"].get(0).cloned().unwrap_or(json!("Hello")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{anthropic, chat, google, responses};

    const PATH: &str = "/home/developer/made";

    fn schema(required: &[&str]) -> Value {
        json!({"type": "object", "properties": {}, "required": required})
    }

    fn called(tools: &Tools) -> (String, String) {
        let call = tools.writing(PATH).unwrap();
        (call.name, call.arguments)
    }

    #[test]
    fn each_agent_is_told_to_use_its_own_tool() {
        let shell = "echo made > '/home/developer/made'";
        let claude_code = json!({"tools": [{"name": "Bash", "input_schema": schema(&["command"])},
            {"name": "Write", "input_schema": schema(&["file_path", "content"])}]});
        let arguments = json!({"file_path": PATH, "content": "made\n"}).to_string();
        assert_eq!(called(&anthropic::tools(&claude_code)), ("Write".to_owned(), arguments));

        let opencode = json!({"tools": [{"type": "function", "function":
            {"name": "write", "parameters": schema(&["filePath", "content"])}}]});
        let arguments = json!({"filePath": PATH, "content": "made\n"}).to_string();
        assert_eq!(called(&chat::tools(&opencode)), ("write".to_owned(), arguments));

        let gemini = json!({"tools": [{"functionDeclarations": [
            {"name": "run_shell_command", "parametersJsonSchema": schema(&["command"])}]}]});
        let arguments = json!({"command": shell}).to_string();
        assert_eq!(called(&google::tools(&gemini)), ("run_shell_command".to_owned(), arguments));

        let codex = json!({"input": [{"type": "additional_tools", "tools": [{"type": "namespace", "name": "functions",
            "tools": [{"type": "function", "name": "wait", "parameters": schema(&["cell_id"])},
                {"type": "custom", "name": "exec", "description": "Runs programs with `exec_command`."}]}]}]});
        let call = responses::tools(&codex).writing(PATH).unwrap();
        assert!(call.is_text && call.namespace.as_deref() == Some("functions"), "{call:?}");
        assert_eq!(call.cut(), format!(r#"const ran = await tools.exec_command({{"cmd":"{shell}"}});"#));
    }

    #[test]
    fn request_with_a_result_is_known_in_every_protocol() {
        let messages = json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]);
        assert!(anthropic::tools(&json!({"messages": messages})).has_result);
        assert!(chat::tools(&json!({"messages": [{"role": "tool", "content": ""}]})).has_result);
        assert!(google::tools(&json!({"contents": [{"parts": [{"functionResponse": {}}]}]})).has_result);
        assert!(responses::tools(&json!({"input": [{"type": "custom_tool_call_output"}]})).has_result);
        assert!(!responses::tools(&json!({"input": "hello"})).has_result);
    }
}
