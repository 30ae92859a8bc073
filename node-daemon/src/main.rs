//! See [`sluiced`].

fn main() -> std::process::ExitCode {
    sluiced::main()
}
