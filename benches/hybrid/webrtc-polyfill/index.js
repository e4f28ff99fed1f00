// WebRTC by @roamhq/wrtc in place of node-datachannel, whose peers take five seconds to meet.

import wrtc from '@roamhq/wrtc'

export const { RTCPeerConnection, RTCSessionDescription, RTCIceCandidate } = wrtc
export default wrtc
