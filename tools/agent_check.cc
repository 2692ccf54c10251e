#include "tools/agent_check.h"

#include <filesystem>

#include "identity/agent_client.h"

namespace inlay::tools {

tl::expected<std::string, std::string> ask_agent(const std::string &socket,
                                                 const std::string &executable) {
  auto client = identity::AgentClient::connect({socket});
  if (!client) return tl::make_unexpected(client.error().message);
  // The kernel knows a process by the file itself.
  std::error_code error;
  std::string file = std::filesystem::canonical(executable, error).string();
  auto answer = client->ask(identity::AgentFrame::probe, error ? executable : file);
  if (!answer) return tl::make_unexpected(answer.error().message);
  if (answer->frame != identity::AgentFrame::text) {
    return tl::make_unexpected(socket + ": the agent's answer is of another version of inlay");
  }
  return std::move(answer->bytes);
}

}  // namespace inlay::tools
