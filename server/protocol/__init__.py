"""The rounds: who is asked, who answers, until when, and the gate before a release. The only room that sends."""
