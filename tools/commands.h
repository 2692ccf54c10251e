// The subcommands of `inlay`, one file each. A command adds itself to the app; its callback does
// the work and ends with `throw CLI::RuntimeError(code)` for an exit code other than 0, after
// saying why with complain().
#pragma once

namespace CLI {
class App;
}

namespace inlay::tools {

void add_run_command(CLI::App &app);
void add_doctor_command(CLI::App &app);
void add_log_command(CLI::App &app);
void add_policy_command(CLI::App &app);
void add_ca_command(CLI::App &app);
void add_agent_command(CLI::App &app);

}  // namespace inlay::tools
